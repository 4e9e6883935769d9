"""Rules beside the fields of a config, and the one checker that applies them.

A rule stands in the annotation of its field: `keep: Annotated[int, at_least(2, "one may be
damaged")] = 2`. It is skipped where the value is None; of several, the first that is broken is
reported. What involves several fields stands in `Config.across`.
"""

import dataclasses
import functools
import operator
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from esam_jax import files
from esam_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be, as a test and in words that follow "but"."""

    holds: Callable[[Any], bool]
    words: str


class _Marker:
    """A marker of a field that is not a rule."""


# A resumed run may change this field, or anything below it: how fast, how often and where, but not
# which numbers come out.
MAY_DIFFER = _Marker()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every config: a frozen dataclass that checks itself when it is made.

    A constant of the class, such as `kind`, is not a field: it is the same in every config. RETIRED
    names keys of earlier releases that changed no result: they are read and dropped.
    """

    RETIRED: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """ConfigError for the first rule that is broken: those of the fields come first."""
        for name, rules in _rules(type(self)).items():
            value = getattr(self, name)
            for rule in rules if value is not None else ():
                require(rule.holds(value), name, value, rule.words)
        for path, words in self.across():
            require(False, path, operator.attrgetter(path)(self), words)

    def across(self) -> Iterator[tuple[str, str]]:
        """Each broken rule between several fields: the field to blame, and what follows "but"."""
        return iter(())


def require(ok: bool, field: str, value: object, rule: str) -> None:
    """ConfigError unless `ok`."""
    if not ok:
        raise ConfigError(f"{field} is {value!r:.200}, but {rule}")


def at_least(least: int | float, why: str = "") -> Rule:
    return _rule(lambda value: value >= least, f"must be at least {least}", why)


def at_most(most: int | float, why: str = "") -> Rule:
    return _rule(lambda value: value <= most, f"must be at most {most}", why)


def above(bound: int | float, why: str = "") -> Rule:
    return _rule(lambda value: value > bound, f"must be above {bound}", why)


def below(bound: int | float, why: str = "") -> Rule:
    return _rule(lambda value: value < bound, f"must be below {bound}", why)


def within(least: int | float, most: int | float, why: str = "") -> Rule:
    """Both ends included."""
    return _rule(lambda value: least <= value <= most, f"must be from {least} to {most}", why)


def multiple_of(divisor: int, why: str = "") -> Rule:
    return _rule(lambda value: value % divisor == 0, f"must be a multiple of {divisor}", why)


def matching(pattern: str, form: str, why: str = "") -> Rule:
    """For text; `form` is what people call the pattern."""
    compiled = re.compile(pattern)
    return _rule(lambda value: compiled.fullmatch(value) is not None, f"must be {form}", why)


def local() -> Rule:
    """For the name of a file, a folder or a model."""
    return Rule(lambda value: not files.is_address(value), files.LOCAL_ONLY)


def readable() -> Rule:
    """For the name of data: a local one, or one in an object store."""
    return Rule(lambda value: not files.is_address(value) or files.is_store(value), files.READABLE)


def local_records() -> Rule:
    """For the name of data in files of ArrayRecord."""
    return Rule(lambda value: not files.is_address(value), files.LOCAL_RECORDS)


def some(why: str = "") -> Rule:
    return _rule(lambda values: len(values) > 0, "must not be empty", why)


def few(most: int, why: str = "") -> Rule:
    return _rule(lambda values: len(values) <= most, f"must have at most {most} values", why)


def distinct(why: str = "") -> Rule:
    return _rule(lambda values: len(set(values)) == len(values), "must not repeat itself", why)


def each(rule: Rule) -> Rule:
    """The rule, for every element of a tuple."""

    def holds(values: Sequence[Any]) -> bool:
        return all(rule.holds(value) for value in values)

    return Rule(holds, rule.words.replace("must", "each must", 1))


def hints(kind: type) -> dict[str, Any]:
    """Field of a config class -> its type, with rules and markers."""
    return _hints(kind)


def plain(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type without its rules and markers, and those."""
    return (hint.__origin__, hint.__metadata__) if hasattr(hint, "__metadata__") else (hint, ())


def _rule(holds: Callable[[Any], bool], words: str, why: str) -> Rule:
    return Rule(holds, f"{words}: {why}" if why else words)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    known = typing.get_type_hints(kind, include_extras=True)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _rules(kind: type) -> dict[str, tuple[Rule, ...]]:
    return {name: (*_choice(hint), *_stated(hint)) for name, hint in _hints(kind).items()}


def _stated(hint: Any) -> Iterator[Rule]:
    return (each for each in plain(hint)[1] if isinstance(each, Rule))


def _choice(hint: Any) -> Iterator[Rule]:
    """The rule that a Literal is, so that a config made in Python is checked as one from a file."""
    bare, _ = plain(hint)
    is_union = typing.get_origin(bare) in (types.UnionType, typing.Union)
    options = typing.get_args(bare) if is_union else (bare,)
    literals = [each for each in options if typing.get_origin(each) is typing.Literal]
    if literals and not set(options) - {*literals, type(None)}:
        choices = [choice for each in literals for choice in typing.get_args(each)]
        words = f"must be one of {', '.join(map(repr, choices))}"
        yield Rule(lambda value: value in choices, words)
