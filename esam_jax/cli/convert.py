"""`esam convert SRC DST [--model NAME] [--verify]`: between PyTorch's files and ours, exactly.

With --verify the target is read back and compared bit for bit with what was to be written, and the
network is compared with its original (`evaluate/parity.py`).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from esam_jax.cli import arguments
from esam_jax.convert import describe, load, save
from esam_jax.convert.families.family import State
from esam_jax.convert.formats.choices import Weights
from esam_jax.convert.load import Location
from esam_jax.models import named


@dataclasses.dataclass(frozen=True)
class Convert:
    """Reads any model and writes it elsewhere; prints its parameter count and checksum."""

    src: tyro.conf.Positional[str]
    """A .pt, .pth, .ckpt, .bin, .zip or .safetensors file, a model folder, a run (RUN@STEP for one
    of its checkpoints), a folder of transformers' SamModel or CLIPModel, a hub id or a preset."""
    dst: tyro.conf.Positional[Path]
    """A .pt, .pth, .ckpt, .bin or .safetensors file, or a folder: a new or an empty one."""
    model: str | None = None
    """Name of the network, where the file's shapes do not determine it."""
    weights: Weights | None = None
    """ema or raw, where a file holds averaged weights beside others: ema, unless raw is given."""
    layout: Literal["folder", "original", "transformers", "timm"] | None = None
    """The default is `original` for a file, and for a folder `folder`: a model folder."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of what is written."""
    drop_extras: bool = False
    """Leave out what the layout cannot express, and say what it was."""
    overwrite: bool = False
    """Replace a file, or a folder that holds one model and nothing else."""
    verify: bool = False
    """Compare the network with PyTorch's, and print the measured differences."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Converts; exit code 1 if a comparison of --verify exceeds its limit or the file came out
    different."""
    args = arguments.parse(Convert, argv, prog="esam convert")
    source = load.locate(args.src)
    inputs = load.inputs(source)
    save.require_target(args.dst, layout=args.layout, overwrite=args.overwrite, inputs=inputs)
    arguments.require_writable(args.dst.absolute().parent)
    file = load.model_file(source, model=args.model, weights=args.weights)
    written = save.write(
        file,
        args.dst,
        layout=args.layout,
        dtype=args.dtype,
        drop_extras=args.drop_extras,
        overwrite=args.overwrite,
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
        "notes": list(file.notes),
    }
    holds = True
    if args.verify:
        from esam_jax.evaluate import parity  # starts JAX, which writing does not need

        # Of a small model the tensors alone do not always say which one it is.
        name = args.model or named.name_of(file.config)
        back = load.model_file(args.dst, model=name if written.same_model else None)
        report = parity.measure(file, _originals(args, source, written, name))
        result["round_trip"] = describe.round_trip(file, back, args.dtype)
        holds = report.holds and not result["round_trip"].startswith(describe.DIFFERENT)
        result["verified_against"], result["compared"] = report.against, report.compared
        result["install"] = list(report.absent)
        result["stages"] = [dataclasses.asdict(s) | {"holds": s.holds} for s in report.stages]
    print(json.dumps(result) if args.json else _table(result))
    return 0 if holds else 1


def _originals(
    args: Convert, source: Location, written: save.Written, name: str | None
) -> list[tuple[str, State]]:
    """Family and tensors of what was read and of what was written, in PyTorch's names."""
    found = []
    if source.kind not in ("folder", "checkpoint"):
        _, state, _ = load.tensors(source, args.weights)
        found.append((load.recognise(state, source, args.model)[0].name, state))
    wrote = load.locate(args.dst)
    if wrote.kind != "folder" and args.dtype == "float32" and written.same_model:
        _, state, _ = load.tensors(wrote)
        found.append((load.recognise(state, wrote, name)[0].name, state))
    return found


def _compared(result: dict[str, Any]) -> str:
    """What the figures are of, and what they are not of."""
    if result["compared"] != "code":
        return f"compared with {result['verified_against']}"
    names = " or ".join(result["install"])
    why = f"{names} is not installed" if names else "no package of its original is known"
    if names:
        why += ", or has no network of this size"
    return (
        f"THESE WEIGHTS WERE NOT COMPARED with their original: {why}. The code was, with "
        f"{result['verified_against']}"
    )


def _table(result: dict[str, Any]) -> str:
    cast = "" if result["dtype"] == "float32" else " that were read"
    lines = [
        f"{result['source']}  ->  {result['target']} ({result['layout']}, {result['dtype']})",
        f"{result['parameters']:,} parameters, licence {result['licence']}",
        f"SHA-256 of the parameters{cast} {result['sha256']}",
    ]
    if result["dropped"]:
        lines.append(f"left out: {', '.join(result['dropped'])}")
    if result["untrained"]:
        lines.append(f"never trained: {', '.join(result['untrained'])}")
    if "stages" in result:
        lines += [
            f"read back: {result['round_trip']}",
            _compared(result),
            f"{'stage':<28}{'error':>10}{'limit':>10}{'largest':>12}",
        ]
        for stage in result["stages"]:
            mark = "" if stage["holds"] else "  beyond its limit"
            lines.append(
                f"{stage['name']:<28}{stage['error']:>10.1e}{stage['limit']:>10.0e}"
                f"{stage['largest']:>12.3g}{mark}"
            )
    return "\n".join(lines)
