"""`esam convert SRC DST [--model NAME] [--verify]`: between PyTorch's files and ours, exactly.

With --verify the target is read back and compared bit for bit with what was to be written.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from esam_jax.cli import arguments
from esam_jax.convert import describe, load, save
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Convert:
    """Reads any model and writes it elsewhere; prints its parameter count and checksum."""

    src: tyro.conf.Positional[str]
    """A .pt, .pth, .zip or .safetensors file, a model folder, a run (RUN@STEP for one of its
    checkpoints), a folder of transformers' SamModel, a hub id or a preset."""
    dst: tyro.conf.Positional[Path]
    """A .pt, .pth or .safetensors file, or a folder."""
    model: str | None = None
    """Name of the network, where the file's shapes do not determine it."""
    layout: Literal["folder", "original", "transformers", "timm"] | None = None
    """The default is `original` for a file, and for a folder `folder`: a model folder."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of what is written."""
    drop_extras: bool = False
    """Leave out what the layout cannot express, and say what it was."""
    verify: bool = False
    """Compare the network with PyTorch's, and print the measured differences."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Converts; exit code 1 if a comparison of --verify exceeds its limit or the file came out
    different."""
    args = arguments.parse(Convert, argv, prog="esam convert")
    arguments.require_writable(args.dst)
    file = _read(args)
    written = save.write(
        file, args.dst, layout=args.layout, dtype=args.dtype, drop_extras=args.drop_extras
    )
    result: dict[str, Any] = {
        "source": file.source,
        "licence": file.licence,
        "target": str(written.path),
        "layout": written.layout,
        "dtype": args.dtype,
        "parameters": describe.parameters(file),
        "sha256": describe.checksum(file.params),
        "dropped": list(written.dropped),
        "untrained": list(file.untrained),
    }
    holds = True
    if args.verify:
        from esam_jax.evaluate import parity  # starts JAX, which writing does not need

        back = load.model_file(args.dst, model=args.model if written.same_model else None)
        report = parity.measure(file)
        result["round_trip"] = describe.round_trip(file, back, args.dtype)
        holds = report.holds and not result["round_trip"].startswith(describe.DIFFERENT)
        result["verified_against"] = report.against
        result["stages"] = [dataclasses.asdict(s) | {"holds": s.holds} for s in report.stages]
    print(json.dumps(result) if args.json else _table(result))
    return 0 if holds else 1


def _read(args: Convert) -> ModelFile:
    run, at, step = args.src.rpartition("@")
    folder = Path(run if at else args.src)
    asked = at and not Path(args.src).exists()
    if asked and not step.isdecimal():
        raise ConfigError(f"{args.src!r} names step {step!r}, but a step is an integer")
    if asked or _is_unfinished(folder):
        from esam_jax.train.checkpoint import model_of_step

        return model_of_step.read(folder, int(step) if asked else None, name=args.model)
    return load.model_file(args.src, model=args.model)


def _is_unfinished(folder: Path) -> bool:
    """A run with checkpoints, but without a model yet."""
    return (folder / "checkpoints").is_dir() and not (folder / "model").is_dir()


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['source']}  ->  {result['target']} ({result['layout']}, {result['dtype']})",
        f"{result['parameters']:,} parameters, licence {result['licence']}",
        f"SHA-256 of the parameters {result['sha256']}",
    ]
    if result["dropped"]:
        lines.append(f"left out: {', '.join(result['dropped'])}")
    if result["untrained"]:
        lines.append(f"never trained: {', '.join(result['untrained'])}")
    if "stages" in result:
        lines += [
            f"read back: {result['round_trip']}",
            f"compared with {result['verified_against']}",
            f"{'stage':<28}{'error':>10}{'limit':>10}{'largest':>12}",
        ]
        for stage in result["stages"]:
            mark = "" if stage["holds"] else "  beyond its limit"
            lines.append(
                f"{stage['name']:<28}{stage['error']:>10.1e}{stage['limit']:>10.0e}"
                f"{stage['largest']:>12.3g}{mark}"
            )
    return "\n".join(lines)
