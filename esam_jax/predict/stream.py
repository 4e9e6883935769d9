"""Masks of a stream of pictures: read by threads while a device works on those before.

`Sam.segment_many` and `esam segment --prompts` are made of this.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from esam_jax.data import decode
from esam_jax.errors import DataError, DeviceMemoryError, EsamError, PromptError
from esam_jax.predict import devices, picture_array
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.thread_pool import ThreadPool
from esam_jax.words import counted

TOGETHER = 8  # pictures in one call, and as many more read ahead
_READERS = 4  # threads for each device
_END = object()


@runtime_checkable
class Request(Protocol):
    """A picture and prompts about it; its methods are called in threads."""

    def read(self) -> UInt8[np.ndarray, "H W 3"]:
        """The picture; an `EsamError` is the answer where it cannot be used."""
        ...

    def prompts(self, picture: UInt8[np.ndarray, "H W 3"]) -> Sequence[Prompt]:
        """Prompts that fit it; an `EsamError` is the answer where they do not."""
        ...


@dataclasses.dataclass(frozen=True)
class Answer:
    """The masks of one picture, or what is wrong with it or with its prompts."""

    picture: UInt8[np.ndarray, "H W 3"] | None
    masks: Masks | EsamError


@runtime_checkable
class Segmenter(devices.Model, Protocol):
    """`predict.sam.Sam`, which is made of this module."""

    def segment(self, images: Any, prompts: Any, *, multimask: bool = True) -> Any:
        """Masks for prompts about each of some pictures."""
        ...


ARequest = TypeVar("ARequest", bound=Request)
Done = TypeVar("Done")


def answered(
    sam: Segmenter,
    requests: Iterable[ARequest],
    then: Callable[[ARequest, Answer], Done],
    *,
    together: int = TOGETHER,
    multimask: bool = True,
    device_count: int = 1,
    each: int = 1,
) -> Iterator[Done]:
    """`then(request, answer)` of each request, called in threads, in the order of the requests.

    So many pictures `together` are one call, and as many more are read ahead. `each` as
    `devices.share` has it. DeviceMemoryError is no answer, but raised. What the iterable itself
    raises comes behind the answers to the requests before. Who leaves before the end waits for
    nothing: what is being read or computed ends in its thread.
    """
    device_count = max(1, min(device_count, jax.local_device_count()))
    failures: list[Exception] = []

    def work(sam: Segmenter, group: list[tuple[ARequest, Future[Any]]]) -> list[Done]:
        answers = _of_group(sam, group, multimask)
        return [then(request, answer) for request, answer in answers]

    with ThreadPool(_READERS * device_count) as readers:
        begun = (
            [(request, readers.submit(_or_error, request.read)) for request in group]
            for group in _in_groups(requests, together, failures)
        )
        shared = devices.share(begun, sam, work, count=device_count, ahead=1, each=each)
        for _, done in shared:
            yield from done
    for failure in failures:
        raise failure


def requests_of(pictures: Iterable[Any], prompts: Iterable[Any], sam: Any) -> Iterator["_Given"]:
    """Of arrays or files, each with its prompts; PromptError where one of the two ends first."""
    both = itertools.zip_longest(pictures, prompts, fillvalue=_END)
    for i, (picture, asked) in enumerate(both):
        if asked is _END or picture is _END:
            few, many = ("list", "pictures") if asked is _END else ("picture", "lists")
            problem = f"has {counted(i, few)} and more {many}: give one list for each picture"
            raise PromptError.of("prompts", problem)
        # Both are used later, in threads, when the caller may have filled them with others.
        asked = list(asked) if isinstance(asked, list) else asked
        yield _Given(i, picture_array.own(picture), asked, sam)


def require_streams(pictures: Any, prompts: Any) -> None:
    """DataError or PromptError for what is no stream: one picture, one prompt, or no iterable."""
    single = isinstance(pictures, str | Path | Image.Image)
    if single or getattr(pictures, "ndim", None) in (2, 3):
        what = repr(str(pictures)) if isinstance(pictures, str | Path) else "one picture"
        raise DataError(f"pictures is {what:.80}, but must be a stream: put it in a list")
    if isinstance(pictures, bytes | Mapping) or not isinstance(pictures, Iterable):
        raise DataError(f"pictures is {pictures!r:.80}, but must be paths or arrays, or yield them")
    if isinstance(prompts, Prompt):
        problem = "is one Prompt, but must have one, or a list of them, for each picture"
        raise PromptError.of(
            "prompts", f"{problem}: itertools.repeat([prompt]) is the same for all"
        )
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        problem = f"is {prompts!r:.80}, but must have a Prompt, or a list of them, for each picture"
        raise PromptError.of("prompts", problem)


def raised(answers: Iterable[Any]) -> Iterator[Any]:
    """The same, up to the first error, which is raised."""
    for answer in answers:
        if isinstance(answer, EsamError):
            raise answer
        yield answer


@dataclasses.dataclass(frozen=True)
class _Given:
    """A picture or file of the caller's, with prompts."""

    number: int
    picture: Any
    asked: Any
    sam: Any

    @property
    def name(self) -> str:
        is_path = isinstance(self.picture, str | Path)
        return str(self.picture) if is_path else f"pictures[{self.number}]"

    def read(self) -> UInt8[np.ndarray, "H W 3"]:
        if isinstance(self.picture, str | Path):
            return decode.read_rgb(self.picture)
        return picture_array.of(self.picture, self.name)

    def prompts(self, picture: UInt8[np.ndarray, "H W 3"]) -> Sequence[Prompt]:
        try:
            return self.sam.checked(self.asked, *picture.shape[:2])
        except PromptError as error:
            raise PromptError(f"{self.name}: {error}") from error


def _in_groups(
    requests: Iterable[ARequest], size: int, failures: list[Exception]
) -> Iterator[list[ARequest]]:
    """Up to the end, or to what the iterable raises, which is added to `failures`."""
    rest, group = iter(requests), []
    while not failures:
        try:
            group.extend(itertools.islice(rest, size))
        except Exception as error:
            failures.append(error)
        if not group:
            return
        yield group
        group = []


def _or_error(call: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns; or the error, if it is one that names what its request has wrong."""
    try:
        return call(*arguments)
    except DeviceMemoryError:
        raise
    except EsamError as error:
        return error


def _of_group(
    sam: Segmenter, group: list[tuple[ARequest, Future[Any]]], multimask: bool
) -> list[tuple[ARequest, Answer]]:
    read = [(request, reading.result()) for request, reading in group]
    group.clear()  # decoded pictures are kept by this call alone
    found = [
        picture if isinstance(picture, EsamError) else _or_error(request.prompts, picture)
        for request, picture in read
    ]
    good = [i for i, prompts in enumerate(found) if not isinstance(prompts, EsamError)]
    if good:
        pictures = [read[i][1] for i in good]
        answers = sam.segment(pictures, [found[i] for i in good], multimask=multimask)
        for i, masks in zip(good, answers, strict=True):
            found[i] = masks
    return [
        (request, Answer(None if isinstance(picture, EsamError) else picture, masks))
        for (request, picture), masks in zip(read, found, strict=True)
    ]
