"""CLIP's byte-pair tokenizer: texts to tokens, as OpenAI's simple_tokenizer.py numbers them.

The vocabulary follows from the list of merges: 256 signs that stand for bytes, the same at the end
of a word, one token for each merge, and two that begin and end a text.
"""

import functools
import gzip
import heapq
import itertools
import pathlib
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32

from esam_jax import files
from esam_jax.config import TextConfig
from esam_jax.errors import CheckpointError, MissingError, PromptError
from esam_jax.predict import clean_text
from esam_jax.words import counted

MERGES = pathlib.Path(__file__).parents[1] / "assets" / "clip" / "bpe_merges.txt.gz"
CONTEXT = TextConfig.context
START, END = TextConfig.vocabulary - 2, TextConfig.vocabulary - 1

_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_LAST = "</w>"  # of a word
_MOST_SHOWN = 60  # characters of a text in a message
# In any case of letters, in which ſ is an s.
_FIXED = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
_SPACE = re.compile(clean_text.SPACE)


def tokenize(texts: Any, *, truncate: bool = False) -> Int32[np.ndarray, "X L"]:
    """One row for each text, or for the only one: the start, its tokens, the end, zeros up to 77.

    An empty text has start and end alone. PromptError for what is no text, and for a text of more
    than 77 tokens; with `truncate` it loses those beyond, and its last one is the end.
    """
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise PromptError.of("texts", f"is {texts!r:.80}, but must be a text or a list of texts")
    texts = list(texts)
    rows = np.zeros((len(texts), CONTEXT), np.int32)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise PromptError.of(f"texts[{i}]", f"is a {type(text).__name__}, but must be text")
        found = [START, *encode(text), END]
        if len(found) > CONTEXT and not truncate:
            shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
            raise PromptError.of(
                f"texts[{i}]",
                f"is {shown!r}, which has {len(found)} tokens, start and end included, but may "
                f"have {CONTEXT}: shorten it, or give truncate=True to leave the rest of it out",
            )
        if len(found) > CONTEXT:
            found = [*found[: CONTEXT - 1], END]
        rows[i, : len(found)] = found
    return rows


def encode(text: str) -> list[int]:
    """The tokens of a text of any length, without start and end."""
    numbers = _vocabulary()
    words = _words(clean_text.cleaned(text))
    return [numbers[part] for word in words for part in _parts(word)]


def _words(text: str) -> Iterator[str]:
    """Contractions, runs of letters, single numbers and runs of other signs."""
    at = 0
    while at < len(text):
        fixed, kind, end = _FIXED.match(text, at), _kind(text[at]), at + 1
        if fixed:
            end = fixed.end()
        elif kind != "number":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if fixed or kind != "space":
            yield text[at:end]
        at = end


@functools.lru_cache(maxsize=4096)
def _kind(sign: str) -> str:
    if _SPACE.match(sign):
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(sign)[0], "other")


@functools.lru_cache(maxsize=2**16)
def _parts(word: str) -> tuple[str, ...]:
    """The byte pairs of a word: the merge of the lowest rank first, wherever it stands."""
    if word in _SPECIAL:
        return (word,)
    signs = _signs()
    *first, last = (signs[byte] for byte in word.encode())
    return tuple(_merged([*first, last + _LAST], _ranks()))


def _merged(parts: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """What is left of the parts when no two neighbours have a rank.

    The original looks through all parts for each merge, which takes minutes for a text of 10,000
    letters. A queue gives the same: what a merge makes has a rank only in later ones.
    """
    count = len(parts)
    before, after = [*range(-1, count - 1)], [*range(1, count + 1)]
    pairs = enumerate(itertools.pairwise(parts))
    waiting = [(ranks[pair], i) for i, pair in pairs if pair in ranks]
    heapq.heapify(waiting)
    while waiting:
        rank, i = heapq.heappop(waiting)
        j = after[i]
        if j == count or ranks.get((parts[i], parts[j])) != rank:
            continue  # one of both is in another part by now
        parts[i], parts[j], after[i] = parts[i] + parts[j], "", after[j]
        if after[i] < count:
            before[after[i]] = i
        for left in (before[i], i):
            if left >= 0 and after[left] < count:
                pair = parts[left], parts[after[left]]
                if pair in ranks:
                    heapq.heappush(waiting, (ranks[pair], left))
    return [part for part in parts if part]


@functools.cache
def _signs() -> Mapping[int, str]:
    """Byte -> sign: itself where it is printed, else one behind Latin-1, in order of vocabulary."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {
        **{byte: chr(byte) for byte in printed},
        **{byte: chr(256 + i) for i, byte in enumerate(others)},
    }


@functools.cache
def _ranks() -> Mapping[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(_merges(MERGES))}


@functools.cache
def _vocabulary() -> Mapping[str, int]:
    signs = [*_signs().values()]
    merged = ["".join(pair) for pair in _ranks()]
    parts = [*signs, *(sign + _LAST for sign in signs), *merged, *_SPECIAL]
    return {part: i for i, part in enumerate(parts)}


def _merges(file: pathlib.Path) -> list[tuple[str, str]]:
    """Every merge, the most frequent first; an error that names a file that is not all there."""
    remedy = "install the package again, which holds it"
    try:
        text = gzip.decompress(file.read_bytes()).decode()
    except FileNotFoundError as error:
        raise MissingError(
            f"CLIP's tokenizer needs {file}, which does not exist: {remedy}"
        ) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise files.refusal(error) or CheckpointError(
            f"CLIP's tokenizer cannot read {file} ({error}): {remedy}"
        ) from error
    pairs = [tuple(line.split(" ")) for line in text.splitlines()]
    wanted = START - 2 * 256
    if len(pairs) != wanted or any(len(pair) != 2 for pair in pairs):
        raise CheckpointError(
            f"{file} has {counted(len(pairs), 'line')}, but must have {wanted} merges of two "
            f"parts: {remedy}"
        )
    return [(first, second) for first, second in pairs]
