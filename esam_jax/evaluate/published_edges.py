"""Numbers that papers publish about BSDS500, to stand beside ours where data and protocol match.

Sources: Segment Anything, arXiv:2304.02643, Table 3; FastSAM, arXiv:2306.12156, Table 2; the README
of RepViT-SAM (github.com/THU-MIG/RepViT). None is of a model that is measured here: they say what
other methods reach on the same pictures. EfficientSAM has never been reported on them.
"""

from typing import Any

from esam_jax.evaluate.edge_scores import MAX_DISTANCE
from esam_jax.evaluate.published import Beside
from esam_jax.words import counted

_SAM = "arXiv:2304.02643, Table 3"
_FAST = "arXiv:2306.12156, Table 2"
_REPVIT = "README of RepViT-SAM"
_PICTURES, _THRESHOLDS = 200, 99  # of the test split; of the benchmark
# ODS, OIS, AP, R50; None is not reported.
_ROWS = (
    ("Sobel", _SAM, (0.539, None, None, None)),
    ("Canny", _SAM, (0.600, 0.640, 0.580, None)),
    ("Felz-Hutt", _SAM, (0.610, 0.640, 0.560, None)),
    ("HED (trained on BSDS500)", _SAM, (0.788, 0.808, 0.840, 0.923)),
    ("EDETR (trained on BSDS500)", _SAM, (0.840, 0.858, 0.896, 0.930)),
    ("SAM ViT-H", _SAM, (0.768, 0.786, 0.794, 0.928)),
    ("SAM ViT-B", _REPVIT, (0.743, 0.764, 0.726, None)),
    ("FastSAM", _FAST, (0.750, 0.790, 0.793, 0.903)),
    ("MobileSAM", _REPVIT, (0.756, 0.768, 0.746, None)),
    ("RepViT-SAM", _REPVIT, (0.764, 0.786, 0.773, None)),
)


def edges(
    *, split: str | None, pictures: int, broken: int, thresholds: int, max_distance: float
) -> dict[str, Any]:
    """`rows` of what other methods reach; `left_out`, why they do not stand for these data."""
    beside, faults = Beside(), []
    if split != "test" or pictures != _PICTURES:
        which = f"split {split}" if split else "all splits"
        faults.append(
            f"they are of the {_PICTURES} pictures of the split test, these are "
            f"{counted(pictures, 'picture')} of {which}"
        )
    if broken:
        faults.append(f"{counted(broken, 'picture')} could not be read")
    if thresholds != _THRESHOLDS:
        faults.append(f"they have {_THRESHOLDS} thresholds instead of {thresholds}")
    if max_distance != MAX_DISTANCE:
        faults.append(f"they allow {MAX_DISTANCE:g} of the diagonal instead of {max_distance:g}")
    if faults:
        beside.left_out.append(f"{_SAM}: {'; '.join(faults)}")
        return beside.json()
    for model, source, numbers in _ROWS:
        named = dict(zip(("ODS", "OIS", "AP", "R50"), numbers, strict=True))
        known = {name: value for name, value in named.items() if value is not None}
        about = {"label": "published", "source": source}
        beside.rows.append({"model": model, **known, **about})
    return beside.json()
