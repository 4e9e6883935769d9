"""`card.json` as a page: what the card did, beside paper, with what went wrong at its head."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from esam_jax.card.sections import SECTIONS

Row = Mapping[str, Any]
Number = int | float  # JSON tells them apart

_NO_SHEET = "No data sheet for this device: nothing is compared with paper."
_MOST_GROUPS = 12  # of the kernels of one program
_TABLES: dict[str, tuple[tuple[str, Callable[[Row], str]], ...]] = {}


def page(record: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    sections = record["sections"]
    parts = ["# A card, measured", *_head(record), *_faults(sections)]
    for name, section in SECTIONS.items():
        if name in sections:
            parts += [f"## {section.title}", *_section(sections[name])]
    return "\n\n".join(parts) + "\n"


def one_line(row: Row) -> str:
    """A row for people who wait."""
    name = row["table"]
    if name not in _TABLES:
        return name
    found = [(head, cell(row)) for head, cell in _TABLES[name]]
    return f"{name}: " + ", ".join(f"{head} {text}" for head, text in found if text != "-")


def _head(record: Mapping[str, Any]) -> Iterator[str]:
    rows = [row for each in record["sections"].values() for row in each["rows"]]
    machine = next((row for row in rows if row["table"] == "machine"), None)
    said = f"`{record['command']}`, {record['seconds'] / 60:.1f} minutes."
    if machine is None:
        yield said
        return
    versions = ", ".join(f"{name} {each}" for name, each in machine["versions"].items())
    yield f"{machine['device']}, {machine['cores']} cores of the host. {said}"
    yield f"Versions: {versions}."
    card = machine["nvidia_smi"]
    if card is not None:
        yield "Driver: " + ", ".join(f"{name} {each}" for name, each in card.items()) + "."
    if machine["data_sheet"] is None:
        yield _NO_SHEET
    else:
        yield (
            f"Paper is the data sheet of {machine['data_sheet']}, derated as docs/plan.md says, "
            "for the kernels of the programs that ran."
        )


def _faults(sections: Mapping[str, Any]) -> Iterator[str]:
    """What is missing or wrong, by section."""
    lines = []
    for name, found in sections.items():
        if found["error"] is not None:
            lines.append(f"- {name} {found['state']}: {_cut(found['error'])}")
        lines += [
            f"- {name} does not hold: {one_line(row)}"
            for row in found["rows"]
            if row.get("holds") is False
        ]
    absent = [name for name in SECTIONS if name not in sections]
    if absent:
        lines.append(f"- not measured: {', '.join(absent)}")
    yield "\n".join(lines) if lines else "All sections are complete, and every check holds."


def _section(found: Mapping[str, Any]) -> Iterator[str]:
    if found["error"] is not None:
        yield f"{found['state']}: {_cut(found['error'])}"
    names = dict.fromkeys(row["table"] for row in found["rows"])
    for name in (each for each in names if each in _TABLES):
        rows = [row for row in found["rows"] if row["table"] == name]
        yield "\n".join(_table(_TABLES[name], rows))
        for row in rows:
            if row.get("groups"):
                yield from _groups(row)
    notes = [f"{found['seconds']:.0f} seconds"]
    for where, size in (found.get("peak_bytes") or {}).items():
        notes.append(f"peak memory of the {where} {_gib(size)} GiB")
    yield f"{', '.join(notes)}."


def _groups(row: Row) -> Iterator[str]:
    """The kernels of a program that take longest, and where its time does not add up."""
    yield f"### Kernels: {row['program']}, {row['dtype']}, {row['size']}"
    if row["profile_error"] is not None:
        yield f"No profile ({_cut(row['profile_error'])}): what the program holds, on paper alone."
    shown = row["groups"][:_MOST_GROUPS]
    yield "\n".join(_table(_GROUPS, shown))
    rest = row["groups"][_MOST_GROUPS:]
    text = f"{len(rest)} more groups take {_ms(sum(each['seconds'] for each in rest))} ms. "
    text += f"{row['silent_kernels']} kernels of the program were not seen in the profile"
    if row["unmatched_seconds"]:
        named = ", ".join(f"{k} {_ms(v)} ms" for k, v in row["unmatched_seconds"].items())
        text += f"; seen, but none of its kernels: {named}"
    yield f"{text}."


def _table(
    columns: Sequence[tuple[str, Callable[[Row], str]]], rows: Sequence[Row]
) -> Iterator[str]:
    yield f"| {' | '.join(head for head, _ in columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell(row).replace('|', '/') for _, cell in columns)} |"


# -------------------------------------------------------------------------------------- cells


@dataclasses.dataclass(frozen=True)
class _Value:
    """A cell: the value of a key in words; "-" where there is none."""

    key: str
    words: Callable[[Any], str] = str

    def __call__(self, row: Row) -> str:
        value = row.get(self.key)
        return "-" if value is None else self.words(value)


def _ms(seconds: Number) -> str:
    return f"{1e3 * seconds:.4g}"


def _share(value: Number) -> str:
    return f"{value:.1%}"


def _short(value: Number) -> str:
    return f"{value:.3g}"


def _gib(value: Number) -> str:
    return f"{value / 2**30:.3g}"


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _cut(text: str) -> str:
    return " ".join(text.split())[:600]


def _rate(row: Row) -> str:
    if row.get("rate") is None:
        return "-"
    scale, unit = (1e12, "T") if row["rate"] >= 1e12 else (1e9, "G")
    return f"{row['rate'] / scale:.4g} {unit}{row['unit']}"


def _assumed(row: Row) -> str:
    if "assumed_share" in row:
        return _share(row["assumed_share"])
    return f"{_ms(row['assumed_seconds'])} ms"


def _against_paper(row: Row) -> str:
    """How many times longer the card took."""
    paper = row.get("paper_seconds")
    return f"{row['seconds'] / paper:.2f}" if paper else "-"


def _busy(row: Row) -> str:
    return _share(row["busy_seconds"] / row["seconds"]) if row["busy_seconds"] else "-"


def _parts(row: Row) -> str:
    return ", ".join(f"{name} {_ms(each)}" for name, each in row["parts_seconds"].items())


def _achieved(row: Row) -> str:
    """Of a group: operations and bytes a second."""
    if not row["seconds"]:
        return "-"
    work, moved = row["flops"] / row["seconds"] / 1e12, row["bytes"] / row["seconds"] / 1e9
    return f"{work:.3g}, {moved:.3g}"


_TABLES |= {
    "ceilings": (
        ("what", _Value("what")),
        ("ms", _Value("seconds", _ms)),
        ("rate", _rate),
        ("of the peak", _Value("share", _share)),
        ("assumed on paper", _assumed),
    ),
    "parity": (
        ("case", _Value("case")),
        ("stage", _Value("stage")),
        ("error", _Value("error", _short)),
        ("limit", _Value("limit", _short)),
        ("holds", _Value("holds", _yes)),
    ),
    "types": (
        ("bfloat16 of", _Value("model")),
        ("embedding: largest difference", _Value("embedding_error", _share)),
        ("masks: pixels that differ", _Value("mask_pixels", _share)),
        ("finite", _Value("holds", _yes)),
    ),
    "predict": (
        ("model", _Value("model")),
        ("part", _Value("part")),
        ("dtype", _Value("dtype")),
        ("pictures", _Value("pictures")),
        ("prompts", _Value("prompts")),
        ("median ms", _Value("median_seconds", _ms)),
        ("p90 ms", _Value("p90_seconds", _ms)),
        ("per second", _Value("per_second", lambda x: f"{x:.4g}")),
        ("of the floor's rate", _Value("floor_share", _share)),
        ("compile s", _Value("compile_seconds", _short)),
    ),
    "everything": (
        ("model", _Value("model")),
        ("dtype", _Value("dtype")),
        ("picture", lambda row: f"{row['height']} x {row['width']}"),
        ("clicks", _Value("clicks")),
        ("masks", _Value("masks")),
        ("median ms", _Value("median_seconds", _ms)),
        ("compile s", _Value("compile_seconds", _short)),
        ("of it, ms", _parts),
    ),
    "updates": (
        ("program", _Value("program")),
        ("dtype", _Value("dtype")),
        ("batch", _Value("size")),
        ("ms", _Value("seconds", _ms)),
        ("examples/s", _Value("examples_per_second", lambda x: f"{x:.4g}")),
        ("MFU", _Value("mfu", _share)),
        ("paper ms", _Value("paper_seconds", _ms)),
        ("card / paper", _against_paper),
        ("busy", _busy),
        ("peak GiB", _Value("peak_bytes", _gib)),
        ("of GiB", _Value("usable_bytes", _gib)),
        ("compile s", _Value("compile_seconds", _short)),
    ),
    "kernels": (
        ("program", _Value("program")),
        ("dtype", _Value("dtype")),
        ("pictures or prompts", _Value("size")),
        ("ms", _Value("seconds", _ms)),
        ("paper ms", _Value("paper_seconds", _ms)),
        ("card / paper", _against_paper),
        ("roofline ms", _Value("roofline_seconds", _ms)),
        ("busy", _busy),
        ("matched", _Value("matched_share", _share)),
    ),
    "faults": (
        ("check", _Value("check")),
        ("outcome", _Value("outcome", _cut)),
        ("largest difference", _Value("largest_difference", _short)),
        ("s", _Value("seconds", _short)),
        ("holds", _Value("holds", _yes)),
    ),
}

_GROUPS = (
    ("ms", _Value("seconds", _ms)),
    ("paper ms", _Value("paper_seconds", _ms)),
    ("card / paper", _against_paper),
    ("kernels", _Value("runs")),
    ("kind", _Value("kind")),
    ("of", _Value("dtype")),
    ("TFLOP/s, GB/s", _achieved),
    ("where", lambda row: f"`{row['where']}`"),
)
