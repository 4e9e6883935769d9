"""`esam bench predict|everything|data|card`: what things cost on this machine.

MODEL is what `esam segment` takes, or random:NAME for a network of that name (models/named.py)
with random weights: time does not depend on them, but how many masks `everything` finds does.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from esam_jax import files, outputs
from esam_jax.bench import (
    baselines,
    conditions,
    everything,
    inputs,
    predict,
    tables,
    timing,
)
from esam_jax.cli import arguments, bench_card, bench_data
from esam_jax.config import ComputeConfig, SamConfig
from esam_jax.convert import load as models
from esam_jax.data import decode
from esam_jax.errors import ConfigError
from esam_jax.machine import accelerators
from esam_jax.models import named
from esam_jax.models.sam import network
from esam_jax.predict import load
from esam_jax.predict.everything import presets
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam

_RANDOM = "random:"
_USAGE = (
    "esam bench predict|everything MODEL ..., esam bench data CONFIG or esam bench card --out DIR "
    "(esam bench predict --help says more)"
)
DType = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Predict:
    """Latency (median, p90) and rate of encoder, decoder and both together; compile time apart.

    All are calls of the library, from arrays of the host. encoder: Sam.encode of pictures. decoder:
    Sam.decode of boxes on one embedding. device: Sam.segment of pictures and one box each, to masks
    of full size on the device. end-to-end: the same, to arrays of the host.
    """

    model: tyro.conf.Positional[str]
    """What `esam segment` takes, or random:NAME, such as random:efficientsam_ti."""
    batch: tuple[int, ...] = ()
    """Pictures in one call; 1 and, on an accelerator, 8."""
    prompts: tuple[int, ...] = (1, 16, 64)
    """Boxes on one embedding, of the decoder."""
    dtype: tuple[DType, ...] = ()
    """float32 and, on an accelerator, bfloat16."""
    parts: tuple[predict.Part, ...] = predict.PARTS
    """What to measure."""
    runs: int | None = None
    """Calls that count; 50 on an accelerator, 7 on a CPU."""
    against: str | None = None
    """torch (transformers' SamModel), MODULE:FUNCTION or FILE.py:FUNCTION, timed in turn."""
    on_paper: str | None = None
    """Measure nothing: compile the programs for this card (h200, h100, a100) and add up kernels."""
    kernels: bool = False
    """With --on-paper, list the kernels of each program."""
    json: Path | None = None
    """A .json file for everything that was measured, each run included."""
    overwrite: bool = False
    """Replace that file."""


@dataclasses.dataclass(frozen=True)
class Everything:
    """Seconds of segment-everything by part, peak memory, and how many masks are found."""

    model: tyro.conf.Positional[str]
    """What `esam segment` takes, or random:NAME, such as random:efficientsam_ti."""
    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """JPEG, PNG or WebP pictures."""
    dtype: DType = "float32"
    """What the network computes in."""
    preset: Literal["segment_anything", "efficientsam"] = "segment_anything"
    """Whose thresholds and algorithm, as `esam everything` has it."""
    points_per_side: int = 32
    """Clicks along each side of the grid."""
    points_per_batch: int = 64
    """Clicks decoded at once."""
    crop_n_layers: int = 0
    """Look at 4, then 16, ... enlarged crops, too."""
    stability_rule: Literal["full_size", "low_res"] = "full_size"
    """Where stability is counted, as `esam everything` has it."""
    all: bool = False
    """Let every mask pass, as far as suppression: the most that it can cost."""
    runs: int | None = None
    """Calls that count, for each picture; 50 on an accelerator, 1 on a CPU."""
    on_paper: str | None = None
    """Name no picture: compile the programs for this card (h200, ...) and add up kernels."""
    kernels: bool = False
    """With --on-paper, list the kernels of each program."""
    json: Path | None = None
    """A .json file for everything that was measured, each run included."""
    overwrite: bool = False
    """Replace that file."""


def main(argv: Sequence[str]) -> int:
    """Prints the figures as they come; model, pictures and rival are checked before."""
    if not argv:
        raise ConfigError(f"no measurement is named: write {_USAGE}")
    task, *rest = argv
    if task in ("-h", "--help"):
        print(f"usage: {_USAGE}\n\n{__doc__}")
        return 0
    if task == "predict":
        return _predict(arguments.parse(Predict, rest, prog="esam bench predict"))
    if task == "everything":
        return _everything(arguments.parse(Everything, rest, prog="esam bench everything"))
    if task == "data":
        return bench_data.main(rest)
    if task == "card":
        return bench_card.main(rest)
    raise ConfigError(f"esam bench cannot measure {task!r}: write {_USAGE}")


# ------------------------------------------------------------------------------------ predict


def _predict(args: Predict) -> int:
    if args.on_paper is not None:
        return _on_paper(args, args.on_paper)
    _require_paper(args)
    fast = jax.default_backend() != "cpu"
    batches = args.batch or ((1, 8) if fast else (1,))
    dtypes = args.dtype or (("float32", "bfloat16") if fast else ("float32",))
    runs = (50 if fast else 7) if args.runs is None else args.runs
    _require_positive("--batch", *batches)
    _require_positive("--prompts", *args.prompts)
    _require_positive("--runs", runs)
    if args.against is not None:
        baselines.check(args.against)
    _check_writable(args)
    sam = _model(args.model)
    about = {
        "command": "esam bench predict",
        "model": args.model,
        "against": args.against,
        "runs": runs,
        "warm_up": timing.WARM_UP,
        **conditions.machine(),
    }
    rows: list[predict.Row] = []
    for dtype in dtypes:
        same = _in(dtype, sam)
        rival = None if args.against is None else baselines.load(args.against, same)
        if not rows:  # the rival has loaded the packages whose versions are listed
            about |= {
                "versions": conditions.versions(),
                "torch_threads": conditions.torch_threads(),
            }
            print(tables.heading(about))
            print(tables.columns(tables.HEADS))
        measured = predict.predict(
            same,
            batches=batches,
            prompts=args.prompts,
            parts=args.parts,
            runs=runs,
            rival=rival,
            sheet=accelerators.of(jax.devices()[0]),
        )
        for row in measured:
            rows.append(row)
            print(tables.columns(tables.cells(row)), flush=True)
    about["load_after"] = os.getloadavg()[0]
    _write(args.json, {**about, "rows": [row.as_json() for row in rows]})
    return 0


def _on_paper(args: Predict, card: str) -> int:
    """The same programs as they would run on a card that need not be there."""
    jax.config.update("jax_platforms", "cpu")  # before JAX starts: no accelerator is used
    from esam_jax.plan import paper, prediction

    _require_positive("--batch", *args.batch)
    _require_positive("--prompts", *args.prompts)
    if args.against is not None:
        raise ConfigError("--against measures on this machine: leave out --against or --on-paper")
    _check_writable(args)
    config = _config(args.model)
    prediction.require(card)  # before anything is printed
    print(f"{args.model} on paper, {card}: kernels of the compiled programs (docs/plan.md)")
    print(tables.columns(prediction.HEADS))
    found = []
    for dtype in args.dtype or ("bfloat16",):
        for row in prediction.rows(
            config,
            dtype,
            card,
            batches=args.batch or (1, 8),
            prompts=args.prompts,
            parts=args.parts,
        ):
            found.append(dataclasses.asdict(row) | {"per_second": row.per_second})
            print(tables.columns(row.cells), flush=True)
            if args.kernels:
                print("\n".join(paper.table(row.paper)))
    _write(
        args.json,
        {"command": "esam bench predict", "model": args.model, "on_paper": card}
        | {"versions": conditions.versions(), "rows": found},
    )
    return 0


# --------------------------------------------------------------------------------- everything


def _everything(args: Everything) -> int:
    if args.on_paper is not None:
        return _everything_on_paper(args, args.on_paper)
    _require_paper(args)
    runs = args.runs
    if runs is None:
        runs = 50 if jax.default_backend() != "cpu" else 1
    _require_positive("--runs", runs)
    if not args.pictures:
        raise ConfigError("no picture is named: write esam bench everything MODEL PICTURE ...")
    _check_writable(args)
    pictures = [decode.read_rgb(path) for path in args.pictures]
    loose: dict[str, Any] = {"pred_iou_thresh": -1e9, "stability_score_thresh": 0.0}
    generator = AutomaticMaskGenerator(
        _in(args.dtype, _model(args.model)),
        args.points_per_side,
        args.points_per_batch,
        crop_n_layers=args.crop_n_layers,
        output_mode="coco_rle",
        stability_rule=args.stability_rule,
        **{**presets.preset(args.preset), **(loose if args.all else {})},
    )
    about = {
        "command": "esam bench everything",
        "model": args.model,
        "dtype": args.dtype,
        "preset": args.preset,
        "runs": runs,
        **conditions.machine(),
        "versions": conditions.versions(),
    }
    where = f"on {about['device']}, load {about['load']:.1f}; {tables.versions(about)}"
    print(f"{args.model}, {args.dtype}, {where}")
    results = []
    for path, picture in zip(args.pictures, pictures, strict=True):
        result = everything.measure(generator, picture, runs=runs)
        results.append({"picture": str(path), **result.as_json()})
        print(tables.picture(path, result), flush=True)
    peak = conditions.peak_memory()
    shown = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in peak.items())
    print(f"peak memory: {shown}")
    _write(args.json, {**about, "peak_bytes": peak, "pictures": results})
    return 0


def _everything_on_paper(args: Everything, card: str) -> int:
    jax.config.update("jax_platforms", "cpu")  # before JAX starts: no accelerator is used
    from esam_jax.plan import everything_on_paper as planned
    from esam_jax.plan import paper, prediction

    _require_positive("--points-per-side", args.points_per_side)
    _require_positive("--points-per-batch", args.points_per_batch)
    if args.pictures:
        raise ConfigError(
            f"--on-paper reads no picture: leave out {args.pictures[0]}, or --on-paper"
        )
    _check_writable(args)
    clicks, config = args.points_per_side**2, _config(args.model)
    prediction.require(card)  # before anything is printed
    print(f"{args.model} on paper, {card}, {clicks} clicks (docs/inference.md)")
    print(planned.line(planned.HEADS))
    found = []
    for row in planned.rows(config, args.dtype, card, clicks=clicks, at_once=args.points_per_batch):
        found.append(dataclasses.asdict(row))
        print(planned.line(row.cells), flush=True)
        if args.kernels:
            print("\n".join(paper.table(row.paper)))
    total = sum(row["paper"]["seconds"] for row in found)
    print(f"together {1e3 * total:.4g} ms")
    _write(
        args.json,
        {"command": "esam bench everything", "model": args.model, "on_paper": card}
        | {"versions": conditions.versions(), "clicks": clicks, "rows": found},
    )
    return 0


# --------------------------------------------------------------------------------------- both


def _model(name: str) -> Sam:
    """In float32; a real model is found before anything slow is done."""
    if name.startswith(_RANDOM):
        config = named.sam(name.removeprefix(_RANDOM))
        return Sam(network.Sam(config), inputs.random_params(config))
    models.locate(name)
    return load(name)


def _config(name: str) -> SamConfig:
    """Of a model whose weights are not needed."""
    if name.startswith(_RANDOM):
        return named.sam(name.removeprefix(_RANDOM))
    return load(name).config


def _in(dtype: DType, sam: Sam) -> Sam:
    """The same model, computing in `dtype`."""
    model = network.Sam(sam.config, ComputeConfig(dtype=dtype))
    return Sam(model, sam.params, sam.untrained, sam.encoder)


def _require_positive(option: str, *values: int) -> None:
    for value in values:
        if value < 1:
            raise ConfigError(f"{option} is {value}, but must be at least 1")


def _require_paper(args: Predict | Everything) -> None:
    if args.kernels:
        raise ConfigError("--kernels are those of a card on paper: add --on-paper h200, say")


def _check_writable(args: Predict | Everything) -> None:
    if args.json is not None:
        pictures = () if isinstance(args, Predict) else args.pictures
        outputs.require_file(
            args.json, overwrite=args.overwrite, inputs=pictures, endings=(".json",)
        )
        arguments.require_writable(args.json.parent)


def _write(file: Path | None, content: dict[str, Any]) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, json.dumps(content, indent=1) + "\n")
