# ruff: noqa: RUF001
"""Without ftfy, text that was decoded rightly is repaired as it does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.predict import clean_text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("don’t “quote” ‚me‛…", "don't \"quote\" 'me'…"),
        ("ﬁsh ﬂour ﬀ ﬅ ĳ Ǆ", "fish flour ff ſt ij DŽ"),
        ("Ｆｕｌｌ　width！ ﾊﾟ", "Full width! パ"),
        ("cafe\u0301", "café"),
        ("null\x00bell\x07 \ufeffmark\u206a", "nullbell mark"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("nel\x85 dash\x96", "nel… dash–"),
        ("a &amp; b", "a & b"),
        ("<b> a &amp; b", "<b> a &amp; b"),  # a tag: nothing is unescaped
        ("½ № ②", "½ № ②"),
        ("🐶 \u200d ❤️", "🐶 \u200d ❤️"),
    ],
)
def test_repairs(text, wanted):
    assert clean_text.plainly_repaired(text) == wanted


def test_cleaned():
    text = "  Fish &amp;amp; CHIPS\t&lt;B&gt;\n\u3000ΟΔΟΣ "
    assert clean_text.cleaned(text) == "fish & chips <b> οδος"


signs = st.characters(max_codepoint=0x2FFF, exclude_categories=("Cn", "Cs", "Co"))
wide = st.characters(min_codepoint=0x3000, max_codepoint=0x30FF, exclude_categories=("Cn",))
forms = st.characters(min_codepoint=0xFB00, max_codepoint=0xFFEE, exclude_categories=("Cn", "Cs"))


@given(st.text(signs | wide | forms | st.sampled_from(" &amp;<>'\"’“\r\n\x85\x1b["), max_size=20))
def test_ftfy_does_the_same(text):
    """But for text that looks wrongly decoded, and line breaks, which are white space anyway."""
    ftfy = pytest.importorskip("ftfy")
    plain = ftfy.TextFixerConfig(fix_encoding=False, explain=False)
    theirs = ftfy.fix_text(text, plain)
    ours = clean_text.plainly_repaired(text)
    assert ours.split() == theirs.split(), (ours, theirs)


@pytest.mark.parametrize(
    ("text", "told"),
    [("cafÃ©", True), ("â€œquoteâ€\x9d", True), ("café", False), ("Ünïcödé", False), ("x", False)],
)
def test_what_looks_wrongly_decoded(text, told):
    assert bool(clean_text._WRONGLY_DECODED.search(text)) == told
