"""How far apart the two stability rules of segment-everything are, in scores and in masks kept.

    python tests/bench/stability_rules.py PICTURE ... [--model quickstart_teacher]

Every mask with a predicted IoU above 0.3 is scored by both rules, before suppression.
"""

import argparse
import json

import numpy as np

from esam_jax.data import decode
from esam_jax.predict import load
from esam_jax.predict.everything.generator import AutomaticMaskGenerator

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95)
LOOSE = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


def scores(sam, picture, rule, points_per_side):
    generator = AutomaticMaskGenerator(
        sam, points_per_side, output_mode="uncompressed_rle", stability_rule=rule, **LOOSE
    )
    return np.array([record["stability_score"] for record in generator.generate(picture)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model", default="quickstart_teacher")
    parser.add_argument("--points-per-side", type=int, default=32)
    args = parser.parse_args()
    sam, pairs = load(args.model), []
    for name in args.pictures:
        picture = decode.read_rgb(name)
        rules = ("full_size", "low_res")
        # Suppression lets all pass, so both come in the order of predicted IoU.
        pairs.append(np.stack([scores(sam, picture, r, args.points_per_side) for r in rules]))
    full, low = np.concatenate(pairs, axis=1)
    apart = np.abs(low - full)
    result = {
        "masks": len(full),
        "median": round(float(np.nanmedian(apart)), 4),
        "p90": round(float(np.nanpercentile(apart, 90)), 4),
        "largest": round(float(np.nanmax(apart)), 4),
        "low_res_minus_full_size": round(float(np.nanmean(low - full)), 4),
        "kept": {
            threshold: {
                "full_size": int((full >= threshold).sum()),
                "low_res": int((low >= threshold).sum()),
                "both": int(((full >= threshold) & (low >= threshold)).sum()),
            }
            for threshold in THRESHOLDS
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
