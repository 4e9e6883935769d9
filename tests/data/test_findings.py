"""What is found in the data, in words."""

import pytest

from esam_jax.data import findings


@pytest.mark.parametrize("kind", findings.KINDS)
def test_every_kind_has_words_for_one_and_for_many(kind):
    one, many = (findings.in_words(kind, count) for count in (1, 2))
    assert one.startswith("1 ") and many.startswith("2 ") and one[2:] != many[2:]


def test_the_choice_is_named_as_the_command_names_it():
    found = findings.Findings(
        findings.Finding(kind, "a.png") for kind in ("crowds_left_out", "animations")
    )
    for options in ("", "data.source."):
        assert found.in_words(options) == [
            f"1 crowd left out, the first: a.png (--{options}crowds use reads them)",
            "1 animation, the first: a.png",
        ]


def test_what_is_chosen_is_of_a_known_kind():
    assert findings.BY_CHOICE.issubset(findings.KINDS)
