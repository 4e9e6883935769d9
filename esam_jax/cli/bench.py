"""`esam bench predict|everything MODEL ...`: what a model costs on this machine.

MODEL is what `esam segment` takes, or random:NAME for a network of that name (models/named.py)
with random weights: time does not depend on them, but how many masks `everything` finds does.
"""

import dataclasses
import importlib.metadata
import json
import os
import re
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from esam_jax import files
from esam_jax.bench import baselines, everything, predict
from esam_jax.cli import arguments
from esam_jax.config import ComputeConfig
from esam_jax.convert import load as models
from esam_jax.data import decode
from esam_jax.errors import ConfigError
from esam_jax.machine import accelerators, environment, memory
from esam_jax.models import named
from esam_jax.models.sam import network
from esam_jax.predict.everything import presets
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.load import load
from esam_jax.predict.sam import Sam

_RANDOM = "random:"
_USAGE = "esam bench predict|everything MODEL ... (esam bench predict --help says more)"
_DRIVER = Path("/proc/driver/nvidia/version")
DType = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Predict:
    """Latency (median, p90) and rate of encoder, decoder and the whole way; compile time apart.

    encoder: uint8 pictures on the device to embeddings. decoder: boxes on one embedding to logits.
    device: pictures and one box each to masks of full size, in one program. end-to-end: the same
    through the library, from arrays of the host to arrays of the host.
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
    json: Path | None = None
    """File for everything that was measured, each run included."""


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
    json: Path | None = None
    """File for everything that was measured, each run included."""


def main(argv: Sequence[str]) -> int:
    """Prints the figures as they come; model, pictures and rival are checked before."""
    if not argv:
        raise ConfigError(f"nothing is named to measure: write {_USAGE}")
    task, *rest = argv
    if task in ("-h", "--help"):
        print(f"usage: {_USAGE}\n\n{__doc__}")
        return 0
    if task == "predict":
        return _predict(arguments.parse(Predict, rest, prog="esam bench predict"))
    if task == "everything":
        return _everything(arguments.parse(Everything, rest, prog="esam bench everything"))
    raise ConfigError(f"esam bench measures no {task!r}: write {_USAGE}")


# ------------------------------------------------------------------------------------ predict


def _predict(args: Predict) -> int:
    fast = jax.default_backend() != "cpu"
    batches = args.batch or ((1, 8) if fast else (1,))
    dtypes = args.dtype or (("float32", "bfloat16") if fast else ("float32",))
    runs = (50 if fast else 7) if args.runs is None else args.runs
    _require_positive("--batch", *batches)
    _require_positive("--prompts", *args.prompts)
    _require_positive("--runs", runs)
    if args.against is not None:
        baselines.check(args.against)
    _check_writable(args.json)
    sam = _model(args.model)
    about = {
        "command": "esam bench predict",
        "model": args.model,
        "against": args.against,
        "runs": runs,
        "warm_up": predict.WARM_UP,
        **_machine(),
    }
    rows: list[predict.Row] = []
    for dtype in dtypes:
        same = _in(dtype, sam)
        rival = None if args.against is None else baselines.load(args.against, same)
        if not rows:  # the rival has loaded what versions are told of
            about |= {"versions": _versions(), "torch_threads": _torch_threads()}
            print(_heading(about))
            print(_columns(_HEADS))
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
            print(_columns(_cells(row)), flush=True)
    about["load_after"] = os.getloadavg()[0]
    _write(args.json, {**about, "rows": [row.as_json() for row in rows]})
    return 0


_HEADS = (
    "part", "dtype", "pictures", "prompts", "median", "p90", "rate", "compile", "floor",
    "against", "ratio",
)  # fmt: skip
_WIDTHS = (10, 8, 8, 7, 11, 11, 18, 9, 6, 11, 6)


def _columns(cells: Sequence[str]) -> str:
    left = [cell.ljust(width) for cell, width in zip(cells[:2], _WIDTHS[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(cells[2:], _WIDTHS[2:], strict=True)]
    return "  ".join(left + right)


def _cells(row: predict.Row) -> tuple[str, ...]:
    unit = "prompts/s" if row.part == "decoder" else "images/s"
    share, theirs, ratio = row.floor_share, row.theirs, row.ratio
    return (
        row.part,
        row.dtype,
        str(row.pictures),
        str(row.prompts) if row.prompts else "-",
        _milliseconds(row.ours.median),
        _milliseconds(row.ours.p90),
        f"{row.per_second:.4g} {unit}",
        f"{row.ours.compile:.2f} s",
        "-" if share is None else f"{share:.1%}",
        "-" if theirs is None else _milliseconds(theirs.median),
        "-" if ratio is None else f"{ratio:.3f}",
    )


def _heading(about: dict[str, Any]) -> str:
    sheet = about["data_sheet"]
    floor = f"floor: of {sheet} in bfloat16, kernel by kernel" if sheet else "floor: none is known"
    ratio = f"; ratio: our median over that of {about['against']}" if about["against"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['model']} on {about['device']} ({about['cores']} cores of the host, load "
        f"{about['load']:.1f}); {versions}\n"
        f"{about['runs']} runs in turn after {1 + about['warm_up']} that do not count; "
        f"{floor}{ratio}"
    )


# --------------------------------------------------------------------------------- everything


def _everything(args: Everything) -> int:
    runs = args.runs
    if runs is None:
        runs = 50 if jax.default_backend() != "cpu" else 1
    _require_positive("--runs", runs)
    if not args.pictures:
        raise ConfigError("no picture is named: write esam bench everything MODEL PICTURE ...")
    _check_writable(args.json)
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
        **_machine(),
        "versions": _versions(),
    }
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"{args.model}, {args.dtype}, on {about['device']}, load {about['load']:.1f}; {versions}")
    results = []
    for path, picture in zip(args.pictures, pictures, strict=True):
        result = everything.measure(generator, picture, runs=runs)
        results.append({"picture": str(path), **result.as_json()})
        print(_line(path, result), flush=True)
    peak = _peak_memory()
    told = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in peak.items())
    print(f"peak memory: {told}")
    _write(args.json, {**about, "peak_bytes": peak, "pictures": results})
    return 0


def _line(path: Path, result: everything.Result) -> str:
    whole = result.whole
    parts = ", ".join(f"{part} {seconds:.3f}" for part, seconds in result.parts.items())
    return (
        f"{path.name} {result.width}x{result.height}: {result.masks} masks of {result.clicks} "
        f"clicks in {whole.median:.3f} s (p90 {whole.p90:.3f}, {1 / whole.median:.4g} pictures/s; "
        f"compilation {whole.compile:.3f}): {parts}"
    )


def _peak_memory() -> dict[str, int]:
    """Bytes, the most that this process has held so far, on the host and on its fullest device."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"host": most if sys.platform == "darwin" else most * 1024}
    device = memory.device_bytes().get("device_peak_bytes")
    return found if device is None else {**found, "device": device}


# --------------------------------------------------------------------------------------- both


def _model(name: str) -> Sam:
    """In float32; a real model is found before anything slow is done."""
    if name.startswith(_RANDOM):
        config = named.sam(name.removeprefix(_RANDOM))
        return Sam(network.Sam(config), predict.random_params(config))
    models.locate(name)
    return load(name)


def _in(dtype: DType, sam: Sam) -> Sam:
    """The same model, computing in `dtype`."""
    return Sam(network.Sam(sam.config, ComputeConfig(dtype=dtype)), sam.params, sam.untrained)


def _machine() -> dict[str, Any]:
    device = jax.devices()[0]
    sheet = accelerators.of(device)
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "data_sheet": None if sheet is None else sheet.name,
        "cores": baselines.cores(),
        "load": os.getloadavg()[0],  # of the last minute: above the cores, times are too long
    }


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def _versions() -> dict[str, str]:
    """Of Python and the packages; of torch and transformers where they are loaded."""
    found = environment.versions()
    for name in ("torch", "transformers"):
        if name in sys.modules:
            found[name] = importlib.metadata.version(name)
    for each in importlib.metadata.distributions():
        name = (each.metadata["Name"] or "").lower()
        if re.fullmatch(r"nvidia-cudnn-cu\d+|libtpu", name):
            found[name] = each.version
    if _DRIVER.is_file():
        driver = re.search(r"\d+\.\d[\d.]*", _DRIVER.read_text())
        found["driver"] = driver[0] if driver else "unknown"
    return found


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.5g} ms"


def _require_positive(option: str, *values: int) -> None:
    for value in values:
        if value < 1:
            raise ConfigError(f"{option} is {value}, but must be at least 1")


def _check_writable(file: Path | None) -> None:
    if file is not None:
        arguments.require_writable(file.parent)


def _write(file: Path | None, content: dict[str, Any]) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, json.dumps(content, indent=1) + "\n")
