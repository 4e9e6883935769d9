"""Numbers that papers publish, to stand beside ours where model, protocol and data are theirs.

Source: EfficientSAM, arXiv:2312.00863, Tables 4 and 5. What it does not state is said with them.
Object proposals: Segment Anything, arXiv:2304.02643, Table 4.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_jax.config import SamConfig
from esam_jax.convert import releases
from esam_jax.data.records import Source
from esam_jax.data.sources.coco import CocoInstances
from esam_jax.evaluate.protocol import Protocol
from esam_jax.models import named
from esam_jax.places import Place
from esam_jax.words import counted

PAPER = "arXiv:2312.00863"
_NAMES = {
    "sam_h": "SAM",
    "mobile_sam": "MobileSAM",
    "efficientsam_ti": "EfficientSAM-Ti",
    "efficientsam_s": "EfficientSAM-S",
}
# The jsons that they are of, and how many pictures those list.
_DATA = {"instances_val2017.json": ("COCO", 5000), "lvis_v1_val.json": ("LVIS", 19_809)}
# Table 4: mIoU in percent of a box, one click and three clicks, on COCO and on LVIS.
_PROMPTS = {
    "sam_h": {"COCO": (78.4, 55.6, 74.1), "LVIS": (78.9, 59.8, 75.2)},
    "mobile_sam": {"COCO": (74.2, 43.7, 59.7), "LVIS": (73.8, 51.0, 54.4)},
    "efficientsam_ti": {"COCO": (75.7, 45.5, 67.2), "LVIS": (74.3, 52.7, 66.8)},
    "efficientsam_s": {"COCO": (76.9, 50.0, 69.8), "LVIS": (75.4, 56.2, 68.7)},
}
# Table 5: mask AP in percent of all, small, medium and large objects from boxes of ViTDet.
_INSTANCES = {
    "sam_h": {"COCO": (46.5, 30.8, 51.0, 61.7), "LVIS": (44.7, 32.5, 57.6, 65.5)},
    "mobile_sam": {"COCO": (38.7, 23.7, 42.2, 54.3), "LVIS": (34.4, 23.8, 44.9, 53.7)},
    "efficientsam_ti": {"COCO": (42.3, 26.7, 46.2, 57.4), "LVIS": (39.9, 28.9, 51.0, 59.9)},
    "efficientsam_s": {"COCO": (44.4, 28.4, 48.3, 60.1), "LVIS": (42.3, 30.8, 54.0, 62.3)},
}
# SAM's Table 4: mask AR@1000 in percent on LVIS v1 val of all, small, medium, large, frequent,
# common and rare objects.
_SAM_PAPER = "arXiv:2304.02643"
_PROPOSALS = {
    "ViTDet-H": (63.0, 51.7, 80.8, 87.0, 63.1, 63.3, 58.3),
    "SAM, single output": (54.9, 42.8, 76.7, 74.4, 54.7, 59.8, 62.0),
    "SAM": (59.3, 45.5, 81.6, 86.9, 59.1, 63.9, 65.8),
}
_RECALLS = ("AR@1000", "ARs", "ARm", "ARl", "ARf", "ARc", "ARr")
_OTHERS = (
    "the authors of FastSAM (arXiv:2306.12156, Table 5) measured 0.599 for ViTDet-H and 0.542 for "
    "SAM; how the columns of frequency were made is not stated"
)
_NOT_STATED = "the paper states neither the split nor what is done with crowds and tiny objects"


@dataclasses.dataclass(frozen=True)
class Beside:
    """Published numbers by prompt or size, for each data set; and why some are left out."""

    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)

    def json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def prompts(
    config: SamConfig,
    model: str,
    data: Mapping[str, Source],
    protocol: Protocol,
    *,
    single: bool,
    broken: Mapping[str, int],
) -> dict[str, Any]:
    """`rows` of Table 4 (mIoU as a share) that stand for what was measured; `left_out`, why not.

    single: the single mask has answered several points. broken: pictures of each data set that
    could not be read.
    """
    beside, release = Beside(), of_release(config, model)
    if release is None:
        beside.left_out.append(_other_model(model, _PROMPTS))
        return beside.json()
    faults = []
    if protocol.images is not None or protocol.masks_per_image is not None:
        faults.append("not all pictures and masks are measured")
    columns = [("box", 0), ("uniform_1", 1), ("uniform_3", 3)]
    taken = [
        (column, number)
        for number, (column, _) in enumerate(columns)
        if column in protocol.columns and not (column == "box" and protocol.boxes != "tight")
    ]
    if single and ("uniform_3", 2) in taken:
        taken.remove(("uniform_3", 2))
        beside.left_out.append(
            f"{PAPER}, Table 4: the single mask answers 3 clicks, and not the most confident "
            "candidate (--several candidates)"
        )
    if not taken:
        faults.append("neither tight boxes nor 1 or 3 uniform clicks are measured")
    for name, source in data.items():
        is_coco = isinstance(source, CocoInstances)
        file, listed = (source.file, source.listed) if is_coco else (Path(), 0)
        known, unknown = _known(file, listed, broken[name], name)
        if reasons := [*faults, *unknown]:
            beside.left_out.append(f"{PAPER}, Table 4: {'; '.join(reasons)}")
            continue
        for column, number in taken:
            about = {"label": "published", "source": f"{PAPER}, Table 4", "note": _NOT_STATED}
            value = round(_PROMPTS[release][known][number] / 100, 3)
            row = {"data": name, "model": _NAMES[release], "column": column, "miou": value}
            beside.rows.append({**row, **about})
    return beside.json()


def instances(
    config: SamConfig,
    model: str,
    truth: Place,
    *,
    choice: str,
    refine: bool,
    rules: str,
    pictures: int,
    boxed: int,
    broken: int,
) -> dict[str, Any]:
    """`rows` of Table 5 (AP as a share) that stand for what was measured; `left_out`, why not.

    Of all `pictures` that the json `truth` lists, `boxed` have a box and `broken` could not be
    read. SAM's have a second pass with the mask before; EfficientSAM's take the candidate with the
    highest IoU with its box, and MobileSAM's were made as EfficientSAM's.
    """
    beside, release = Beside(), of_release(config, model)
    if release is None:
        beside.left_out.append(_other_model(model, _INSTANCES))
        return beside.json()
    faults = [] if boxed == pictures else ["some pictures have no box in the results"]
    if release == "sam_h" and not (refine and choice == "confident"):
        faults.append("SAM's numbers have a refining pass with the most confident mask")
    if release != "sam_h" and (refine or choice != "box_iou"):
        faults.append("its numbers take the candidate with the highest IoU with the box, once")
    known, unknown = _known(truth, pictures, broken, truth.name)
    if known and known.lower() != rules:
        faults.append(f"its numbers on {known} are by the rules of {known}")
    if faults := [*faults, *unknown]:
        beside.left_out.append(f"{PAPER}, Table 5: {'; '.join(faults)}")
        return beside.json()
    note = "with boxes of ViTDet-H, whose results file must be the one that is given here"
    for name, value in zip(("AP", "APs", "APm", "APl"), _INSTANCES[release][known], strict=True):
        about = {"label": "published", "source": f"{PAPER}, Table 5", "note": note}
        row = {"model": _NAMES[release], "number": name, "ap": round(value / 100, 3)}
        beside.rows.append({**row, **about})
    return beside.json()


def proposals(truth: Place, pictures: int, broken: int) -> dict[str, Any]:
    """`rows` of SAM's Table 4 (mask AR as a share) where the json `truth` is theirs, LVIS v1 val,
    and all of its `pictures` but `broken` ones were measured; `left_out`, why there is none."""
    beside = Beside()
    known, faults = _known(truth, pictures, broken, truth.name)
    if known != "LVIS":
        faults = [f"{truth.name} is not lvis_v1_val.json"]
    if faults:
        beside.left_out.append(f"{_SAM_PAPER}, Table 4: {'; '.join(faults)}")
        return beside.json()
    for name, values in _PROPOSALS.items():
        numbers = {key: round(x / 100, 3) for key, x in zip(_RECALLS, values, strict=True)}
        about = {"label": "published", "source": f"{_SAM_PAPER}, Table 4", "note": _OTHERS}
        beside.rows.append({"model": name, **numbers, **about})
    return beside.json()


def texts() -> dict[str, Any]:
    """No `rows`: masks for texts were shown and never measured; `left_out` says so."""
    beside = Beside()
    beside.left_out.append(
        f"qualitative only (EfficientSAM, {PAPER}, supplement, section 2; FastSAM, "
        "arXiv:2306.12156, section 3.3)"
    )
    return beside.json()


def of_release(config: SamConfig, model: str) -> str | None:
    """The release that a model is: by its name or that of its file, and by its network."""
    for name in _NAMES:
        release = releases.RELEASES[name]
        is_named = model == name or Path(model).name == release.file.name
        if is_named and config == named.sam(name):
            return name
    return None


def _other_model(model: str, table: Mapping[str, Any]) -> str:
    known = ", ".join(_NAMES[name] for name in table)
    return f"{model or 'this model'} is none of the released {known}"


def _known(file: Place, pictures: int, broken: int, name: str) -> tuple[str, list[str]]:
    """Which data the papers measured this is, or "", and what else it is."""
    if file.name not in _DATA:
        return "", [f"{name} is not {' or '.join(_DATA)}"]
    known, listed = _DATA[file.name]
    faults = []
    if pictures != listed:
        faults.append(f"{name} lists {counted(pictures, 'picture')} instead of {listed}")
    if broken:
        faults.append(f"{counted(broken, 'picture')} of {name} could not be read")
    return known, faults
