"""What segment-everything costs on this machine: seconds by part, and the peak of memory.

    python tests/bench/everything.py PICTURE [--model efficientsam_ti] [--points-per-side N] [--all]

Weights are random unless a model file is named: the time of encoder and decoder does not depend on
them, but how many masks pass does. `--all` lets every mask pass, which is the most it can cost.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import nano
import numpy as np
from PIL import Image

from esam_jax.models import variants
from esam_jax.models.efficient_sam import Sam as Network
from esam_jax.ops import regions
from esam_jax.predict import automatic
from esam_jax.predict.automatic import AutomaticMaskGenerator
from esam_jax.predict.load import load
from esam_jax.predict.sam import Sam


class Timed:
    """Adds up the seconds of a function's calls."""

    def __init__(self, home, name):
        self.seconds, self._call = 0.0, getattr(home, name)
        setattr(home, name, lambda *args, **options: self(*args, **options))

    def __call__(self, *args, **options):
        begin = time.perf_counter()
        value = self._call(*args, **options)
        jax.block_until_ready(getattr(value, "features", None))
        self.seconds += time.perf_counter() - begin
        return value


def model_of(name):
    if Path(name).exists():
        return load(name)
    config = variants.sam(name)
    return Sam(Network(config), nano.params(config))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture")
    parser.add_argument("--model", default="efficientsam_ti")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--rule", default="full_size", choices=["full_size", "low_res"])
    parser.add_argument("--all", action="store_true", help="let every mask pass")
    args = parser.parse_args()
    picture = np.asarray(Image.open(args.picture).convert("RGB"))
    sam = model_of(args.model)
    loose = {"pred_iou_thresh": -1e9, "stability_score_thresh": 0.0} if args.all else {}
    generator = AutomaticMaskGenerator(
        sam,
        args.points_per_side,
        output_mode="uncompressed_rle",
        stability_rule=args.rule,
        **loose,
    )
    parts = {
        "encoder": Timed(sam, "encode"),
        "decoder": Timed(sam, "decode"),
        "measure": Timed(generator, "_measured"),
        "suppress": Timed(automatic, "_survivors"),
        "runs": Timed(regions, "to_runs"),
    }
    seconds = []
    for _ in range(2):  # the first compiles
        for part in parts.values():
            part.seconds = 0.0
        begin = time.perf_counter()
        masks = len(generator.generate(picture))
        seconds.append(time.perf_counter() - begin)
    result = {
        "picture": list(picture.shape[:2]),
        "model": args.model,
        "clicks": args.points_per_side**2,
        "masks": masks,
        "first_seconds": round(seconds[0], 2),
        "seconds": round(seconds[1], 2),
        **{f"{name}_seconds": round(part.seconds, 2) for name, part in parts.items()},
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
        "jax": jax.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
