"""A protocol carried out on a batch of pictures: round by round, prompts and the answers to them.

Talks are independent: one about a box, one with clicks for each way of clicking and each seed. A
round is one prompt of each talk about each object; all of a batch go to the model together.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from esam_jax.data import prompts as drawing
from esam_jax.evaluate import clicking
from esam_jax.evaluate.clicking import RANDOM, Click
from esam_jax.evaluate.protocol import Protocol, Takes
from esam_jax.evaluate.questions import Answer, Query, Session, Want
from esam_jax.evaluate.targets import Scene, Target
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import FOREGROUND

# Of one object: for each column, for each run of it, the answers that count.
Scores = dict[str, list[Answer]]


@dataclasses.dataclass
class _Talk:
    """One object, one way of prompting, and what has been said so far."""

    target: Target
    mask: int  # its place in the picture
    way: Click | Literal["box"]
    points: list[Any] = dataclasses.field(default_factory=list)
    labels: list[int] = dataclasses.field(default_factory=list)
    asked: Prompt | None = None
    last: Answer | None = None
    is_over: bool = False

    def prompt(self, count: int, protocol: Protocol) -> Prompt:
        """Of the round with so many points."""
        if self.way == "box":
            return self.target.box(protocol.boxes == "given")
        fed = self.last.logits if protocol.feed_back and self.last else None
        return Prompt(points=self.points[:count], labels=self.labels[:count], mask=fed)

    def begin(self, seed: int, most: int) -> None:
        mask = self.target.mask
        if self.way == "uniform":
            self.points = clicking.uniform(self.target.generator(seed), mask, most)
        elif self.way == "random_first":
            self.points = clicking.uniform(self.target.generator(seed), mask, 1)
        elif self.way == "centre":
            self.points = [drawing.centre_point(mask)]
        self.labels = [FOREGROUND] * len(self.points)

    def follow(self, background: bool) -> None:
        """Adds the click that follows on the last answer, or ends the talk."""
        assert self.last is not None and self.last.found is not None
        mask, found = self.target.mask.dense(), self.last.found.dense()
        click = clicking.following(mask, found, self.points, background=background)
        if click is None:
            self.is_over = True
        else:
            self.points.append(click[0])
            self.labels.append(click[1])


def hold(
    session: Session, scenes: Mapping[int, Scene], own: frozenset[int], rules: "Rules"
) -> dict[int, list[Scores]]:
    """For each own row, the scores of each of its objects.

    All processes put the same number of rounds to the model.
    """
    talks = {row: list(_talks(scene, rules.protocol)) for row, scene in scenes.items()}
    scores = {row: [_empty(rules.protocol) for _ in scenes[row].targets] for row in scenes}
    for count in rules.rounds:
        last = count == rules.rounds[-1]
        asked = {row: [t for t in each if rules.speaks(t, count)] for row, each in talks.items()}
        queries = {
            row: [rules.query(talk, count) for talk in each] for row, each in asked.items() if each
        }
        answers = session.ask(queries, rules.want(last))
        for row, each in answers.items():
            for talk, answer in zip(asked[row], each, strict=True):
                talk.last = answer
        for row in own & talks.keys():
            for talk in talks[row]:
                rules.note(talk, count, scores[row][talk.mask])
                if not last and talk.way in ("centre", "random_first") and not talk.is_over:
                    talk.follow(rules.takes.background)
    return {row: each for row, each in scores.items() if row in own}


@dataclasses.dataclass(frozen=True)
class Rules:
    """A protocol for a model that takes only so much; masks and prompts are kept on request."""

    protocol: Protocol
    takes: Takes
    oracle: bool = True
    keep: bool = False

    @property
    def rounds(self) -> Sequence[int]:
        """Numbers of points; a box is a prompt of the first round."""
        counts = set(self.protocol.points) if self.protocol.ways else set()
        if set(self.protocol.ways) <= {"uniform"}:
            return sorted(counts | ({1} if self.protocol.boxes != "none" else set()))
        return range(1, self.protocol.most + 1)

    def speaks(self, talk: _Talk, count: int) -> bool:
        """Whether there is a prompt of this talk in the round."""
        if talk.way == "box":
            return count == self.rounds[0]
        counts = talk.way != "uniform" or count in self.protocol.points
        return counts and not talk.is_over

    def query(self, talk: _Talk, count: int) -> Query:
        single = talk.way != "box" and count > 1 and self.protocol.single(self.takes)
        talk.asked = talk.prompt(count, self.protocol)
        return Query(talk.asked, talk.mask, single)

    def want(self, last: bool) -> Want:
        follows = not last and any(way != "uniform" for way in self.protocol.ways)
        return Want(
            self.oracle, found=follows or self.keep, logits=follows and self.protocol.feed_back
        )

    def note(self, talk: _Talk, count: int, scores: Scores) -> None:
        """What the talk has reached, where it counts."""
        if talk.way == "box":
            column = "box" if count == self.rounds[0] else ""
        else:
            column = f"{talk.way}_{count}" if count in self.protocol.points else ""
        if column:
            assert talk.last is not None
            kept = (
                {"found": talk.last.found, "prompt": talk.asked} if self.keep else {"found": None}
            )
            scores[column].append(dataclasses.replace(talk.last, logits=None, **kept))


def _talks(scene: Scene, protocol: Protocol) -> Iterator[_Talk]:
    """In the order of columns, objects, seeds."""
    boxes: tuple[Any, ...] = () if protocol.boxes == "none" else ("box",)
    for way in (*boxes, *protocol.ways):
        for mask, target in enumerate(scene.targets):
            for seed in protocol.seeds if way in RANDOM else protocol.seeds[:1]:
                talk = _Talk(target, mask, way)
                talk.begin(seed, protocol.most)
                yield talk


def _empty(protocol: Protocol) -> Scores:
    return {column: [] for column in protocol.columns}
