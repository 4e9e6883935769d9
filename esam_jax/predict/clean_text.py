"""Text as CLIP's tokenizer takes it: repaired, unescaped, of single spaces, in lower case.

OpenAI repairs text with ftfy. That is used where it is installed (`pip install 'esam_jax[text]'`).
Without it, what it does to nearly all text is done here: quotes, ligatures, widths, control
characters and combining accents. What is left is text that was decoded wrongly ("cafÃ©"), which
nothing here repairs: a warning says so where it looks like that.
"""

import functools
import html
import re
import unicodedata
import warnings
from collections.abc import Callable

# White space of Unicode; Python's also has the separators 1C to 1F, which `regex` has not.
SPACE = r"[^\S\x1c-\x1f]"

_QUOTES = {
    **dict.fromkeys((0x2BC, *range(0x2018, 0x201C)), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
}
_CONTROLS = dict.fromkeys(
    (
        *range(9),
        0xB,
        *range(0xE, 0x20),
        0x7F,
        *range(0x206A, 0x2070),
        0xFEFF,
        *range(0xFFF9, 0xFFFD),
    )
)
_LIGATURES = (
    0x132,
    0x133,
    0x149,
    *range(0x1C4, 0x1CD),
    *range(0x1F1, 0x1F4),
    *range(0xFB00, 0xFB07),
)
_WIDE = (0x3000, *range(0xFF01, 0xFFF0))  # full-width signs and half-width kana
_ESCAPES = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")  # colours of terminals
_C1 = re.compile(r"[\x80-\x9f]")
# The first byte of a character in UTF-8 and one that follows, each read as Windows-1252 or Latin-1.
_WRONGLY_DECODED = re.compile(
    "[\xc2-\xf4][\x80-\xbf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152"
    "\u017d\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)


def cleaned(text: str) -> str:
    """The text that is cut into words (openai/CLIP, simple_tokenizer.py: encode)."""
    text = html.unescape(html.unescape(_repaired(text))).strip()
    return re.sub(f"{SPACE}+", " ", text).strip().lower()


def _repaired(text: str) -> str:
    fix = _ftfy()
    if fix is not None:
        return fix(text)
    if _WRONGLY_DECODED.search(text):
        _warn_once()
    return plainly_repaired(text)


@functools.cache
def _ftfy() -> Callable[[str], str] | None:
    try:
        import ftfy
    except ImportError:
        return None
    return ftfy.fix_text


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "a text looks as if it had been decoded wrongly, which OpenAI's tokenizer repairs with "
        "ftfy and this one cannot without: pip install 'esam_jax[text]'",
        UserWarning,
        stacklevel=2,
    )


def plainly_repaired(text: str) -> str:
    """What ftfy 6.3 gives for text that was decoded rightly."""
    if "<" not in text:
        text = html.unescape(text)
    text = _C1.sub(_as_windows, text)
    text = text.translate(_compatible())
    text = text.translate(_QUOTES)
    text = _ESCAPES.sub("", text).translate(_CONTROLS)
    return unicodedata.normalize("NFC", text)


@functools.cache
def _compatible() -> dict[int, str]:
    """Ligatures in letters, one step of their decomposition, and signs in their usual width."""
    ligatures = {code: "".join(_step(code)) for code in _LIGATURES}
    return ligatures | {code: unicodedata.normalize("NFKC", chr(code)) for code in _WIDE}


def _step(code: int) -> list[str]:
    _, *parts = unicodedata.decomposition(chr(code)).split()
    return [chr(int(part, 16)) for part in parts]


def _as_windows(found: re.Match[str]) -> str:
    """A control character that was a byte of Windows-1252, where that has a sign there."""
    return found[0].encode("latin-1").decode("cp1252", errors="ignore") or found[0]
