"""Text on pictures: a font that has the letters, and what stands for those that no font has.

Pillow's own font has the letters of ASCII. A name with others is drawn with a font of the system
that has them, where one is installed; a letter without any loses its accent or becomes "?".
"""

import functools
import itertools
import unicodedata
from typing import Any

from PIL import ImageFont

# Common fonts by file, of Linux, macOS and Windows: first Latin, Greek and Cyrillic, then the many
# letters of East Asia. Pillow looks for them where the system keeps its fonts.
_FILES = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial.ttf",
    "segoeui.ttf",
    "NotoSansCJK-Regular.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "msyh.ttc",
    "msgothic.ttc",
    "malgun.ttf",
)
_NO_LETTER = "\U0010ffff"  # never assigned: any font draws its "missing" sign


def fitting(text: str, px: int) -> tuple[str, Any]:
    """One line that can be shown, and the font of that size that shows it best."""
    line = _line(unicodedata.normalize("NFC", text))
    best, fewest = _own(px), len(line) + 1
    for font in itertools.chain([_own(px)], _of_the_system(px)):
        missing = sum(not _has(font, letter) for letter in set(line))
        if missing < fewest:
            best, fewest = font, missing
        if not missing:
            break
    return "".join(_shown(best, letter) for letter in line), best


def _line(text: str) -> str:
    """The text without line breaks and whatever else cannot be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _shown(font: Any, letter: str) -> str:
    """The letter, or the one below its accents, or "?"."""
    plain = unicodedata.normalize("NFKD", letter)[0]
    return next((each for each in (letter, plain) if _has(font, each)), "?")


@functools.cache
def _own(px: int) -> Any:
    return ImageFont.load_default(size=px)


@functools.cache
def _of_the_system(px: int) -> list[Any]:
    found = []
    for file in _FILES:
        try:
            found.append(ImageFont.truetype(file, px))
        except OSError:  # it is not installed
            continue
    return found


@functools.lru_cache(2**14)
def _has(font: Any, letter: str) -> bool:
    """Whether the font draws the letter otherwise than one that does not exist."""
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(_NO_LETTER))
