"""A question whose answer is known, put to the teacher before it teaches.

Wrong, damaged or wrongly computed weights would spoil a run of days without a word. So the teacher
looks at one drawn picture on every device, in the run's own precision and sharding, and some of the
numbers that it gives are compared: between all devices; with the `teacher_answer.json` that lies in
its model folder, where there is one; and on every later start with that of the run folder.
"""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8, UInt32

from esam_jax import files, sharding
from esam_jax.config import RunConfig, SamiConfig
from esam_jax.convert import load
from esam_jax.errors import CheckpointError, TrainingError
from esam_jax.tasks.task import Task
from esam_jax.train import state as states
from esam_jax.train.checkpoint import checksums
from esam_jax.typing import Params

ANSWER_FILE = "teacher_answer.json"
_MOST_BYTES = 10_000_000  # of that file, with a number for each leaf of a teacher
_NUMBERS = 48  # of the features, evenly spread over positions and channels

# Largest accepted difference, as root mean square over the answer's own deviation. Other weights
# differ by 1 and more. float32 on other hardware sums in another order. bfloat16, and the passes of
# 10 or 8 bits that GPUs and TPUs make of float32 products unless `precision` is "highest", round
# each of some 200 results in a row by up to 2 ** -9: sqrt(200) * 2 ** -9 is 0.03.
_EXACT_TOLERANCE, _ROUNDED_TOLERANCE = 1e-3, 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a teacher says to the picture. Two are comparable when their `question` is the same."""

    question: dict[str, Any]
    numbers: list[float]
    weights: dict[str, int] | None = None  # word sum of each leaf, where they are read from a file


def check(
    task: Task, cfg: RunConfig, mesh: Mesh, frozen: Params, workdir: Path, *, resumed: bool
) -> None:
    """Nothing for a task without a teacher, or for one that answers as it should.

    CheckpointError for a teacher that is damaged or not the one that it should be, TrainingError
    when devices disagree. Every process must call it, and all find the same.
    """
    if task.features is None:
        return
    assert isinstance(cfg.task, SamiConfig) and cfg.task.teacher.weights is not None
    answer = ask(task, cfg, mesh, frozen)
    tolerance = _tolerance(cfg, mesh)
    weights = cfg.task.teacher.weights
    shipped = load.SHIPPED.get(weights, Path(weights)) / ANSWER_FILE
    if shipped.is_file():
        remedy = "its weights are damaged: copy that folder anew"
        _compare(weights, answer, _read(shipped), tolerance, str(shipped), remedy)
    stored = workdir / ANSWER_FILE
    if resumed and stored.is_file():
        remedy = "give the weights that the run began with (--task.teacher.weights)"
        _compare(weights, answer, _read(stored), tolerance, str(stored), remedy)
    elif jax.process_index() == 0:
        write(stored, answer)


def ask(task: Task, cfg: RunConfig, mesh: Mesh, frozen: Params) -> Answer:
    """The teacher's answer; CheckpointError if it is none, TrainingError if devices differ."""
    assert task.features is not None and isinstance(cfg.task, SamiConfig)
    features = task.features
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    shown = picture(cfg.data.view.image_px)
    pictures = jax.make_array_from_callback(
        (devices, *shown.shape), sharding.batch(mesh), lambda index: np.stack([shown])
    )

    def look(frozen: Params, pictures: jax.Array) -> dict[str, Any]:
        seen = features(frozen, pictures)
        flat = seen.reshape(devices, -1)
        places = np.linspace(0, flat.shape[1] - 1, _NUMBERS).astype(np.int32)
        return {
            "numbers": flat[:, places],
            "digests": jax.vmap(checksums.word_sum)(flat),
            "finite": jnp.isfinite(seen).all(),
            "spread": seen.std((1, 2)).max(),  # over positions
            "weights": {
                sharding.name(path): checksums.word_sum(leaf)
                for path, leaf in jax.tree_util.tree_leaves_with_path(frozen)
            },
        }

    answer = jax.jit(
        look,
        out_shardings=sharding.replicated(mesh),
        compiler_options=states.compile_once(mesh),
    )
    found = jax.device_get(answer(frozen, pictures))
    teacher = cfg.task.teacher
    if not found["finite"] or found["spread"] == 0:
        fault = "the same everywhere" if found["finite"] else "not finite"
        raise CheckpointError(
            f"the features of the teacher {teacher.weights} are {fault}: its weights are damaged, "
            "or --compute.dtype is too narrow for it; name other weights (--task.teacher.weights)"
        )
    _require_equal(found["digests"], mesh)
    return Answer(
        question={
            "model": teacher.model,
            "features": teacher.features,
            "view": teacher.view,
            "image_px": cfg.data.view.image_px,
        },
        numbers=[float(x) for x in found["numbers"][0]],
        # Random weights are drawn by the device, which may be another at the next start.
        weights=None if teacher.weights == "random" else jax.tree.map(int, found["weights"]),
    )


def picture(side: int) -> UInt8[np.ndarray, "H W 3"]:
    """A square with ramps, a disc and a texture; by arithmetic, so that no release changes it."""
    y, x = np.mgrid[:side, :side]
    disc = (3 * x - side) ** 2 + (2 * y - side) ** 2 < side**2 // 4
    texture = (x * x * 7 + y * y * 13 + x * y * 5) % 61
    channels = (255 * x // side, 255 * y // side, np.where(disc, 230, 40))
    return np.stack([(c + texture) % 256 for c in channels], axis=-1).astype(np.uint8)


def write(file: Path, answer: Answer) -> None:
    """Writes the file atomically."""
    files.write(file, json.dumps(dataclasses.asdict(answer)) + "\n")


def _tolerance(cfg: RunConfig, mesh: Mesh) -> float:
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    exact = cfg.compute.dtype == "float32" and (on_cpu or cfg.compute.precision == "highest")
    return _EXACT_TOLERANCE if exact else _ROUNDED_TOLERANCE


def _require_equal(digests: UInt32[np.ndarray, " X"], mesh: Mesh) -> None:
    """TrainingError where the same program makes something else of the same picture."""
    if mesh.shape["tensor"] > 1:
        return  # each group of devices may add up its parts in another order
    common, _ = collections.Counter(digests.tolist()).most_common(1)[0]
    odd = [
        f"device {device.id} of host {device.process_index}"
        for device, digest in zip(mesh.devices.flat, digests, strict=True)
        if digest != common
    ]
    if odd:
        raise TrainingError(
            f"the teacher sees something else on {', '.join(odd)} than on the others: that device "
            "or its memory is faulty, or its host has other software; run without it"
        )


def _compare(
    weights: str, answer: Answer, known: Answer, tolerance: float, origin: str, remedy: str
) -> None:
    """CheckpointError unless two answers agree; those to different questions need not."""
    if answer.question != known.question:
        return
    found, wanted = np.asarray(answer.numbers), np.asarray(known.numbers)
    apart = float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std())
    if not apart <= tolerance:
        raise CheckpointError(
            f"the teacher {weights} is not as in {origin}: its features are {apart:.2g} of their "
            f"deviation away, but may be {tolerance:g}; {remedy}"
        )
    if answer.weights and known.weights and answer.weights != known.weights:
        odd = sorted(answer.weights.items() ^ known.weights.items())
        names = ", ".join(dict.fromkeys(name for name, _ in odd[:10]))
        raise CheckpointError(
            f"the teacher {weights} is not as in {origin}: other bits in {names}; {remedy}"
        )


def _read(file: Path) -> Answer:
    """CheckpointError for a file that holds no answer."""
    try:
        answer = Answer(**files.read_json(file, max_bytes=_MOST_BYTES, error=CheckpointError))
        if np.shape(np.asarray(answer.numbers, np.float64)) != (_NUMBERS,):
            raise ValueError(f"{_NUMBERS} numbers are needed")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is no answer of a teacher ({error}); delete it") from error
    return answer
