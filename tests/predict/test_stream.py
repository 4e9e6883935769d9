"""Masks of a stream of pictures come in order, with little read ahead and every error named."""

import dataclasses
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import nano
from PIL import Image, ImageSequence

from esam_jax.errors import DataError, DeviceMemoryError, EsamError, MissingError, PromptError
from esam_jax.predict import programs, stream
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt

SAM = nano.sam("sam_nano")
POINT = Prompt(points=[[3, 4]])


def pictures(count: int) -> list[np.ndarray]:
    return [nano.picture(20 + i, 30, i) for i in range(count)]


def test_masks_are_those_of_each_picture_alone_in_their_order(tmp_path: Path):
    given: list[Any] = pictures(5)
    for i, path in ((1, tmp_path / "a.png"), (3, str(tmp_path / "b.png"))):
        Image.fromarray(given[i]).save(path)
        given[i] = path
    lists = [POINT, [POINT, Prompt(box=[1, 2, 20, 18])], [], [POINT], [POINT]]
    found = list(SAM.segment_many(iter(given), iter(lists), together=2))
    for picture, prompts, masks in zip(pictures(5), lists, found, strict=True):
        [wanted] = SAM.segment([picture], [prompts])
        assert (masks.height, masks.width) == picture.shape[:2] and len(masks) == len(wanted)
        np.testing.assert_allclose(masks.low_res, wanted.low_res, rtol=1e-4, atol=1e-4)
    single = SAM.segment_many(pictures(1), [POINT], multimask=False)
    assert [masks.scores.shape for masks in single] == [(1, 1)]


BAD = [
    ("missing.png", POINT, MissingError, r"missing\.png cannot be read"),
    (np.zeros((8, 8), np.uint8), POINT, DataError, r"pictures\[1\] has shape \(8, 8\)"),
    (nano.picture(8, 8), Prompt(points=[[9.5, 3]]), PromptError, r"pictures\[1\]: points has"),
    (nano.picture(8, 8), [3], PromptError, r"pictures\[1\]: prompts must be a list of Prompt"),
]


@pytest.mark.parametrize(("picture", "asked", "kind", "message"), BAD)
def test_what_is_wrong_is_named_and_costs_itself_alone(
    picture: Any, asked: Any, kind: type[EsamError], message: str
):
    first, last = pictures(2)
    given = [first, picture, last], [POINT, asked, POINT]
    before, error, after = SAM.segment_many(*given, errors="return")
    assert isinstance(before, Masks) and isinstance(after, Masks) and isinstance(error, kind)
    np.testing.assert_array_equal(after.scores.shape, (1, 3))
    answers = SAM.segment_many(*given)
    assert isinstance(next(answers), Masks)
    with pytest.raises(kind, match=message):
        next(answers)


def test_there_is_one_list_of_prompts_for_each_picture():
    with pytest.raises(PromptError, match="has 1 list and more pictures: give one list for each"):
        list(SAM.segment_many(pictures(2), [POINT]))
    with pytest.raises(PromptError, match="has 1 picture and more lists: give one list for each"):
        list(SAM.segment_many(pictures(1), [POINT, POINT]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"errors": "skip"}, "errors is 'skip', but must be"), ({"together": 0}, "together is 0")],
)
def test_options_are_checked_first(options: dict[str, Any], message: str):
    with pytest.raises(PromptError, match=message):
        SAM.segment_many(pictures(1), [POINT], **options)


@pytest.mark.parametrize(
    ("given", "prompts", "message"),
    [
        ("a.jpg", [POINT], "pictures is 'a.jpg', but must be a stream: put it in a list"),
        (Path("a.jpg"), [POINT], "pictures is 'a.jpg', but must be a stream"),
        (nano.picture(8, 8), [POINT], "pictures is one picture, but must be a stream"),
        (Image.new("L", (8, 8)), [POINT], "pictures is one picture, but must be a stream"),
        (None, [POINT], "pictures is None, but must be paths or arrays"),
        ([], POINT, r"prompts is one Prompt, .*: itertools.repeat\(\[prompt\]\)"),
        ([], None, "prompts is None, but must have a Prompt, or a list of them"),
    ],
)
def test_what_is_no_stream_is_refused_at_once(given: Any, prompts: Any, message: str):
    with pytest.raises(EsamError, match=message):
        SAM.segment_many(given, prompts)


@pytest.mark.parametrize("good", [0, 3, 4])
def test_what_a_generator_raises_comes_behind_the_masks_before(good: int):
    def given() -> Iterator[np.ndarray]:
        yield from pictures(good)
        raise KeyError("of the caller")

    answers = SAM.segment_many(given(), [POINT] * 9, together=2, errors="return")
    assert [next(answers).height for _ in range(good)] == [20 + i for i in range(good)]
    with pytest.raises(KeyError, match="of the caller"):
        next(answers)


def test_the_memory_of_a_frame_may_be_used_again():
    first, second = nano.picture(20, 30, 1), nano.picture(20, 30, 2)

    def frames() -> Iterator[np.ndarray]:
        buffer = np.empty_like(first)
        for i in range(6):
            buffer[:] = second if i % 2 else first
            yield buffer

    wanted = [SAM.segment(each, POINT).scores for each in (first, second)]
    assert not np.allclose(*wanted)
    for i, masks in enumerate(SAM.segment_many(frames(), [POINT] * 6)):
        np.testing.assert_allclose(masks.scores, wanted[i % 2], rtol=1e-5, atol=1e-5)


def test_a_list_of_prompts_may_be_used_again():
    def lists() -> Iterator[list[Prompt]]:
        prompts: list[Prompt] = []
        for i in range(5):
            prompts[:] = [POINT] * i
            yield prompts

    assert [len(masks) for masks in SAM.segment_many(pictures(5), lists())] == [0, 1, 2, 3, 4]


def test_frames_of_an_animation_are_those_that_were_yielded(tmp_path: Path):
    frames = [Image.fromarray(nano.picture(20, 30, i)) for i in range(4)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.png") as animation:
        found = list(SAM.segment_many(ImageSequence.Iterator(animation), [POINT] * 4))
    for frame, masks in zip(frames, found, strict=True):
        np.testing.assert_allclose(masks.scores, SAM.segment(frame, POINT).scores, atol=1e-5)


def test_python_ends_in_the_middle_of_a_stream_without_a_word():
    code = """
        import esam_jax
        import numpy as np

        sam = esam_jax.load("quickstart_teacher")
        point = esam_jax.Prompt(points=[[1, 2]])
        stream = sam.segment_many([np.zeros((8, 8, 3), np.uint8)] * 40, [point] * 40)
        print(len(next(stream)))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "1\n", "")


def test_few_pictures_are_taken_ahead():
    taken = 0

    def given() -> Iterator[np.ndarray]:
        nonlocal taken
        for picture in pictures(20):
            taken += 1
            yield picture

    answers = SAM.segment_many(given(), [POINT] * 20, together=2)
    done = 0
    for done, _ in enumerate(answers, 1):
        assert taken <= min(20, done + 2 * 2 + 1)
    assert done == taken == 20


def test_an_endless_stream_can_be_left():
    def endless() -> Iterator[np.ndarray]:
        while True:
            yield nano.picture(8, 8)

    def always() -> Iterator[Prompt]:
        while True:
            yield POINT

    before = set(threading.enumerate())
    answers = SAM.segment_many(endless(), always(), together=1)
    assert isinstance(next(answers), Masks)
    threads = set(threading.enumerate()) - before
    assert threads
    answers.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_full_device_is_no_fault_of_a_picture(monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(programs, "decode", full)
    with pytest.raises(DeviceMemoryError, match="fewer pictures or prompts"):
        list(SAM.segment_many(pictures(2), [POINT] * 2, errors="return"))


def test_a_device_that_is_full_while_a_picture_is_read_is_no_fault_of_it(
    monkeypatch: pytest.MonkeyPatch,
):
    """A picture may be an array of the device."""

    def full(*_: Any) -> None:
        raise DeviceMemoryError("no memory")

    monkeypatch.setattr(stream.picture_array, "of", full)
    with pytest.raises(DeviceMemoryError, match="no memory"):
        list(SAM.segment_many(pictures(2), [POINT] * 2, errors="return"))


@dataclasses.dataclass
class Drawn:
    """A request of one point, whose picture is drawn where it is read."""

    number: int
    pictures: list[weakref.ref[np.ndarray]] = dataclasses.field(default_factory=list)

    def read(self) -> np.ndarray:
        picture = nano.picture(20, 30, self.number)
        self.pictures.append(weakref.ref(picture))
        return picture

    def prompts(self, picture: np.ndarray) -> list[Prompt]:
        return [POINT]


def test_the_next_pictures_are_done_while_the_caller_has_those_before():
    """And a decoded picture is kept no longer than its masks take, whoever waits for them."""
    requests, done = [Drawn(i) for i in range(4)], [threading.Event() for _ in range(4)]
    answers = stream.answered(SAM, requests, lambda each, _: done[each.number].set(), together=1)
    next(answers)
    assert done[1].wait(60)  # nobody asked for it yet
    end = time.monotonic() + 20
    while any(each() is not None for each in (*requests[0].pictures, *requests[1].pictures)):
        assert time.monotonic() < end, "a picture is kept with its answer"
        time.sleep(0.01)
    assert len(list(answers)) == 3 and all(each.is_set() for each in done)


def test_what_is_done_with_an_answer_is_done_in_threads_of_all_devices():
    requests = list(stream.requests_of(pictures(4), [POINT] * 4, SAM))
    meeting, seen = threading.Barrier(4, timeout=60), []

    def then(request: Any, answer: stream.Answer) -> tuple[str, int]:
        meeting.wait()  # all at once, or never: two threads of each of two devices
        [device] = answer.masks.block_until_ready()._rows.logits[0].devices()
        seen.append((threading.get_ident(), device))
        assert answer.picture is not None and isinstance(answer.masks, Masks)
        return request.name, len(answer.picture)

    done = list(stream.answered(SAM, requests, then, together=1, device_count=2, each=2))
    assert done == [(f"pictures[{i}]", 20 + i) for i in range(4)]
    threads, devices = (set(each) for each in zip(*seen, strict=True))
    assert len(threads) == 4 and threading.get_ident() not in threads
    assert devices == set(jax.local_devices()[:2])
