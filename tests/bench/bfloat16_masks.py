"""What computing in bfloat16 does to masks.

    python tests/bench/bfloat16_masks.py [PICTURE ...] [--model quickstart_teacher] [--scenes 50]

The same weights answer the same questions in float32 and in bfloat16: a grid of clicks on pictures,
and boxes and clicks on drawn scenes that were held out, whose true masks are known.
"""

import argparse
import json

import numpy as np

from esam_jax.config import ScenesConfig
from esam_jax.data import decode, sources
from esam_jax.evaluate import numbers, runner
from esam_jax.evaluate.protocol import Protocol
from esam_jax.ops import grids, regions
from esam_jax.predict import load
from esam_jax.predict.prompt import Prompt


def agreement(models, picture, points_per_side):
    """IoU of the best masks of each click, whether the same candidate is the best, score change."""
    height, width = picture.shape[:2]
    clicks = [Prompt(points=[p]) for p in grids.points(points_per_side) * [width, height]]
    answers = [sam.decode(sam.encode(picture), clicks) for sam in models]
    (first, masks), (second, others) = (answer.best() for answer in answers)
    ious = [regions.iou(mask, other) for mask, other in zip(masks, others, strict=True)]
    own = np.take_along_axis(answers[1].scores, first[:, None], 1)[:, 0]
    change = np.abs(answers[0].scores.max(1) - own)
    same = [
        regions.iou(mask, other)
        for mask, other in zip(masks, _chosen(answers[1], first), strict=True)
    ]
    return np.stack([ious, same, first == second, change], axis=1)


def _chosen(answer, candidates):
    """The masks of the candidates that the other answer holds for the best."""
    return (answer.binary()[i, candidate] for i, candidate in enumerate(candidates))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*")
    parser.add_argument("--model", default="quickstart_teacher")
    parser.add_argument("--points-per-side", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=50)
    args = parser.parse_args()
    models = [load(args.model, dtype=dtype) for dtype in ("float32", "bfloat16")]
    told = {}
    if args.pictures:
        rows = np.concatenate(
            [agreement(models, decode.read_rgb(p), args.points_per_side) for p in args.pictures]
        )
        ious, same, equal, change = rows.T
        told["clicks"] = len(rows)
        for name, values in (("best masks", ious), ("same candidate", same)):
            told[f"IoU of {name}"] = {
                "median": round(float(np.median(values)), 4),
                "tenth percentile": round(float(np.percentile(values, 10)), 4),
                "mean": round(float(values.mean()), 4),
            }
        told["the same candidate is best"] = round(float(equal.mean()), 4)
        told["change of its score, median and most"] = [
            round(float(x), 4) for x in (np.median(change), change.max())
        ]
    scenes = sources.open_source(ScenesConfig(split="heldout"))
    for sam, dtype in zip(models, ("float32", "bfloat16"), strict=True):
        protocol = Protocol(images=args.scenes, masks_per_image=8)
        found = runner.evaluate(sam, {"scenes": scenes}, protocol)
        told[dtype] = {
            "box_miou": round(numbers.miou(found["numbers"], "box"), 6),
            "point_miou": round(numbers.miou(found["numbers"], "uniform", 1), 6),
            "masks": found["masks"],
        }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
