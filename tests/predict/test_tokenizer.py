# ruff: noqa: RUF001
"""CLIP's tokens are OpenAI's: the 52 recorded texts, lengths, and a list of merges that is gone."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.errors import CheckpointError, EsamError, MissingError, PromptError
from esam_jax.predict import clean_text, tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "clip_tokens.json").read_text())
ROWS = GOLDEN["rows"]
MOJIBAKE = [row for row in ROWS if "mojibake" in row["text"]]
WORDS = "a photo of a dog, on grass"


@pytest.fixture
def without_ftfy(monkeypatch):
    monkeypatch.setattr(clean_text, "_ftfy", lambda: None)
    clean_text._warn_once.cache_clear()
    yield
    clean_text._warn_once.cache_clear()


def check(row):
    """Its tokens, how many there are, and that too many are refused."""
    wanted = np.array([*row["ids"], *[0] * (77 - len(row["ids"]))], np.int32)
    found = tokenizer.tokenize(row["text"], truncate=True)
    np.testing.assert_array_equal(found, wanted[None], strict=True)
    assert len(tokenizer.encode(row["text"])) + 2 == row["length_before_truncation"]
    if row["truncated"]:
        with pytest.raises(PromptError, match=f"has {row['length_before_truncation']} tokens"):
            tokenizer.tokenize(row["text"])


def test_the_recorded_texts():
    """With ftfy where it is installed; else all but the one that only it repairs."""
    assert len(ROWS) == 52 and len(MOJIBAKE) == 1
    for row in ROWS:
        if clean_text._ftfy() is not None or row not in MOJIBAKE:
            check(row)


def test_the_recorded_texts_without_ftfy(without_ftfy):
    for row in ROWS:
        if row not in MOJIBAKE:
            check(row)


def test_a_text_that_only_ftfy_repairs_is_told_once(without_ftfy, recwarn):
    text = MOJIBAKE[0]["text"]
    for _ in range(2):
        assert tokenizer.encode(text) != MOJIBAKE[0]["ids"][1:-1]
    (said,) = recwarn.list
    assert "pip install 'esam_jax[text]'" in str(said.message)


def test_one_text_or_several():
    one = tokenizer.tokenize(WORDS)
    assert (one.shape, one.dtype) == ((1, 77), np.int32)
    np.testing.assert_array_equal(tokenizer.tokenize(["", WORDS])[1:], one)
    assert tokenizer.tokenize([]).shape == (0, 77)
    np.testing.assert_array_equal(tokenizer.tokenize("")[0, :3], [49406, 49407, 0])


def test_what_is_too_long_is_named_with_its_length_and_the_limit():
    long = "word " * 75  # as many as fit: with start and end, 77
    assert np.count_nonzero(tokenizer.tokenize(long)) == 77
    with pytest.raises(PromptError) as caught:
        tokenizer.tokenize(["short", long + "more"])
    assert caught.value.argument == "texts[1]"
    said = str(caught.value)
    assert "'word word " in said and "..." in said and len(said) < 300
    assert "78 tokens" in said and "may have 77" in said and "truncate=True" in said
    cut = tokenizer.tokenize(long + "more", truncate=True)
    np.testing.assert_array_equal(cut, tokenizer.tokenize(long))


@pytest.mark.parametrize("texts", [[3], ["a", None], [b"a"], b"a", 5, None])
def test_what_is_no_text_is_refused(texts):
    with pytest.raises(PromptError, match=r"must be (text|a text or a list)"):
        tokenizer.tokenize(texts)


# ------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("it's they'll 'tis", ["it", "'s", "they", "'ll", "'t", "is"]),
        ("a'ſ b", ["a", "'ſ", "b"]),  # ſ is an s whose case is another
        ("12½ 3rd", ["1", "2", "½", "3", "rd"]),
        ("!?'s", ["!?'", "s"]),
        ("<|endoftext|>!", ["<|endoftext|>", "!"]),
        ("<|Endoftext|>", ["<|Endoftext|>"]),
        ("naïve_cafés", ["naïve", "_", "cafés"]),
        ("", []),
    ],
)
def test_words(text, words):
    assert list(tokenizer._words(text)) == words


text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cn", "Cs"))
    | st.sampled_from("' 'sdmtlreLVRE<|>startoftextendoftext0123½Ⅷ_\t\x1c\x85\u3000ſ"),
    max_size=40,
)


@given(text)
def test_words_are_those_of_openais_pattern(given_text):
    """simple_tokenizer.py's own expression, which needs a package with classes of Unicode."""
    regex = pytest.importorskip("regex")
    pattern = regex.compile(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
        r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        regex.IGNORECASE,
    )
    assert list(tokenizer._words(given_text)) == pattern.findall(given_text)


@given(text)
def test_every_word_is_spelt_by_its_parts(given_text):
    """Nothing is lost, and every part has a number."""
    bytes_of = {sign: byte for byte, sign in tokenizer._signs().items()}
    for word in tokenizer._words(clean_text.cleaned(given_text)):
        spelt = "".join(tokenizer._parts(word))
        if word in tokenizer._SPECIAL:
            assert spelt == word
            continue
        assert spelt.endswith("</w>")
        found = bytes(bytes_of[sign] for sign in spelt.removesuffix("</w>"))
        assert found.decode() == word
    assert all(0 <= number < 49408 for number in tokenizer.encode(given_text))


# ------------------------------------------------------------------------------- the merges


def merged_slowly(parts: list[str], ranks) -> list[str]:
    """As OpenAI's `bpe` goes about it: the lowest rank of all pairs, everywhere, again."""
    while pairs := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
        best, i, found = min(pairs, key=ranks.__getitem__), 0, []
        while i < len(parts):
            both = tuple(parts[i : i + 2]) == best
            found.append("".join(parts[i : i + 1 + both]))
            i += 1 + both
        parts = found
    return parts


def test_merges_are_those_of_a_slow_computation():
    ranks, rng = tokenizer._ranks(), np.random.default_rng(0)
    for letters in ("ab", "anti", "aeinorst", "abcdefghijklmnopqrstuvwxyz"):
        for _ in range(100):
            word = "".join(rng.choice([*letters], rng.integers(1, 40)))
            parts = [*word[:-1], f"{word[-1]}</w>"]
            assert tokenizer._merged([*parts], ranks) == merged_slowly(parts, ranks), word


def test_what_a_merge_makes_is_used_by_later_ones_alone():
    """Else one queue of all merges would not give what one after the other does."""
    made = {first + second: rank for (first, second), rank in tokenizer._ranks().items()}
    assert len(made) == len(tokenizer._ranks())
    for pair, rank in tokenizer._ranks().items():
        assert all(made.get(part, -1) < rank for part in pair)


def test_the_vocabulary_is_complete():
    numbers = tokenizer._vocabulary()
    assert sorted(numbers.values()) == list(range(49408))
    assert numbers["<|startoftext|>"] == tokenizer.START == 49406
    assert numbers["<|endoftext|>"] == tokenizer.END == 49407
    assert (numbers["!"], numbers["!</w>"], numbers["in"]) == (0, 256, 512)


def test_its_licence_lies_beside_the_list():
    notice = (tokenizer.MERGES.parent / "LICENSE").read_text()
    assert "MIT License" in notice and "Copyright (c) 2021 OpenAI" in notice


@pytest.mark.parametrize("damage", ["gone", "cut", "not gzip", "short", "one part", "a folder"])
def test_a_list_that_is_not_all_there_is_named(damage, tmp_path):
    whole, file = tokenizer.MERGES.read_bytes(), tmp_path / "merges.txt.gz"
    lines = gzip.decompress(whole).decode().splitlines()
    data = {
        "cut": whole[:1000],
        "not gzip": b"i n\n",
        "short": gzip.compress("\n".join(lines[:-1]).encode()),
        "one part": gzip.compress("\n".join([*lines[:-1], "alone"]).encode()),
    }
    if damage == "a folder":
        file.mkdir()
    elif damage != "gone":
        file.write_bytes(data[damage])
    with pytest.raises(EsamError, match=r"merges.txt.gz") as caught:
        tokenizer._merges(file)
    kinds = MissingError if damage in ("gone", "a folder") else CheckpointError
    assert isinstance(caught.value, kinds)
