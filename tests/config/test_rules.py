"""Each rule at its edge, and the checker that applies them."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

import pytest

from esam_jax.config import rules
from esam_jax.config.rules import Config
from esam_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("rule", "good", "bad", "words"),
    [
        (rules.at_least(2), 2, 1, "must be at least 2"),
        (rules.at_most(2), 2, 3, "must be at most 2"),
        (rules.few(2), (1, 2), (1, 2, 3), "must have at most 2 values"),
        (rules.above(2), 2.5, 2, "must be above 2"),
        (rules.below(2), 1, 2, "must be below 2"),
        (rules.within(1, 3), 1, 0, "must be from 1 to 3"),
        (rules.within(1, 3), 3, 4, "must be from 1 to 3"),
        (rules.multiple_of(8), 16, 12, "must be a multiple of 8"),
        (rules.matching("a+", "LETTERS"), "aa", "aab", "must be LETTERS"),
        (rules.some(), (0,), (), "must not be empty"),
        (rules.distinct(), (1, 2), (1, 1), "must not repeat itself"),
        (rules.each(rules.at_least(2)), (2, 3), (3, 1), "each must be at least 2"),
        (rules.at_least(2, "one may break"), 2, 1, "must be at least 2: one may break"),
    ],
)
def test_a_rule_holds_up_to_its_edge(rule, good, bad, words):
    assert rule.holds(good) and not rule.holds(bad)
    assert rule.words == words


@pytest.mark.parametrize("rule", [rules.at_least(0), rules.above(0), rules.below(9)])
def test_not_a_number_breaks_every_bound(rule):
    assert not rule.holds(float("nan"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Config):
    size: Annotated[int, rules.at_least(1), rules.multiple_of(4)] = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Config):
    parts: Annotated[int | None, rules.at_least(1)] = None
    inner: Inner = Inner()

    def across(self) -> Iterator[tuple[str, str]]:
        if self.parts is not None and self.inner.size % self.parts:
            yield "inner.size", f"must divide into parts={self.parts}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heir(Outer):
    more: Annotated[int, rules.below(5)] = 0


def test_rules_are_applied_in_order_and_none_is_skipped():
    assert Outer().parts is None
    for size, words in ((0, "must be at least 1"), (6, "must be a multiple of 4")):
        with pytest.raises(ConfigError, match=f"^size is {size}, but {words}$"):
            Inner(size=size)
    with pytest.raises(ConfigError, match=r"^parts is 0, but must be at least 1$"):
        Outer(parts=0)


def test_rules_between_fields_come_after_those_of_the_fields():
    with pytest.raises(ConfigError, match=r"^inner\.size is 4, but must divide into parts=3$"):
        Outer(parts=3)
    with pytest.raises(ConfigError, match=r"^parts is -3"):  # or it would divide by it
        Outer(parts=-3)


def test_rules_are_inherited_and_hold_for_copies():
    with pytest.raises(ConfigError, match=r"^parts is 0"):
        Heir(parts=0)
    with pytest.raises(ConfigError, match=r"^more is 5, but must be below 5$"):
        dataclasses.replace(Heir(), more=5)
    with pytest.raises(ConfigError, match=r"^inner\.size is 4"):
        Heir(parts=3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices(Config):
    """Outside the package, where nothing else checks types."""

    plain: Literal["a", "b"] = "a"
    marked: Annotated[Literal["a", 2], rules.MAY_DIFFER] = "a"
    absent: Literal["a", "b"] | None = None


@pytest.mark.parametrize("field", ["plain", "marked", "absent"])
@pytest.mark.parametrize("value", ["c", "A", 3, ["a"]])
def test_a_choice_is_checked_in_python_as_in_a_file(field, value):
    with pytest.raises(ConfigError, match=rf"{field} is .*, but must be one of 'a', "):
        Choices(**{field: value})
    Choices(plain="b", marked=2, absent=None)
