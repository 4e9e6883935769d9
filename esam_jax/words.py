"""Numbers in sentences."""


def counted(count: int, one: str, many: str | None = None) -> str:
    """The count with its noun: `1 mask`, `2 masks`; `many` where its plural is not `one` + s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"
