"""The code blocks of the documentation, and the marks of those that tests do not run.

A block in `python` or `bash` runs unless the line before it says why not, as a comment that no
reader sees: `<!-- not run: needs a cluster -->`. What is printed, and other languages, stand in
blocks of `text`, `json` and the like.
"""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from helpers import source_tree

PAGES = [
    source_tree.REPOSITORY / "README.md",
    *sorted((source_tree.REPOSITORY / "docs").glob("*.md")),
]
_RUN = ("python", "bash")
_MARK = re.compile(r"<!-- not run: \S.* -->")


@dataclasses.dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Those of a page in their order; AssertionError for a fence that is never closed."""
    lines, fence = page.read_text().splitlines(), None
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("```"):
            continue
        if fence is None:
            fence = number
            continue
        marked = fence > 1 and _MARK.fullmatch(lines[fence - 2].strip())
        language = lines[fence - 1].strip().removeprefix("```")
        text = "\n".join(lines[fence : number - 1]) + "\n"
        yield Block(page, fence, language, text, language in _RUN and not marked)
        fence = None
    assert fence is None, f"{page.name}:{fence}: the block does not end"


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a bash block, its comment left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words
