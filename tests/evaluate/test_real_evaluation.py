"""Evaluations of scenes and of real data against independent computations, exactly.

Prompts: IoU in plain NumPy of masks from the public interface. Instances: pycocotools on the masks
that were written and on the annotations as they came. Real data lies where ESAM_TEST_DATA says.
"""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax import cli, sharding
from esam_jax.config import MeshConfig, ScenesConfig
from esam_jax.convert import model_folder
from esam_jax.data import sources
from esam_jax.evaluate import answers, average_precision, prompts
from esam_jax.evaluate.protocol import Protocol, Takes
from esam_jax.evaluate.talks import Rules
from esam_jax.models import named
from esam_jax.ops import regions

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))
real = pytest.mark.skipif(
    not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures"
)
NAME = "efficientsam_nano"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    config = named.sam(NAME)
    model_folder.write(folder, config, nano.params(config), source="a test")
    return str(folder)


# ------------------------------------------------------------------------------------ prompts


@real
@pytest.mark.parametrize(
    "name",
    [
        "coco_instances/val",
        "lvis_mini",
        "nuclei_dsb2018",
        pytest.param("sa1b_layout", marks=pytest.mark.slow),  # pictures of 2048 x 1536
    ],
)
def test_ious_are_those_of_plain_numpy(name: str):
    """Truth is read from the files without the data layer, by picture and object.

    The masks are those of the public interface but for pixels at the threshold, which a sum in
    another order may put on its other side.
    """
    source = sources.open_source(sources.detect(str(DATA / name)))
    sam, mesh = nano.sam(NAME), sharding.make_mesh(MeshConfig(data=1))
    protocol = Protocol(masks_per_image=3, points=(2,))
    rules = Rules(protocol, Takes.of(sam.config, sam.untrained), keep=True)
    model, count = answers.Model(sam.model, mesh).of(sam.ready), 0
    for each in prompts.measure(model, source, [0, len(source) - 1], rules, progress=False):
        picture, masks = READ[name](each.name)
        embedding = sam.encode(picture)
        for target, scores in zip(each.scene.targets, each.scores, strict=True):
            truth = masks(target.about.identity)
            rows, columns = np.nonzero(truth)
            box = [columns.min(), rows.min(), columns.max(), rows.max()]
            box[2:] = max(box[2], box[0] + 1), max(box[3], box[1] + 1)
            assert scores["box"][0].prompt.box.tolist() == box
            for answer in (scores["box"][0], scores["uniform_2"][0]):
                found = answer.found.dense()
                iou = np.count_nonzero(found & truth) / np.count_nonzero(found | truth)
                assert answer.iou == iou
                for x, y in answer.prompt.points.astype(int):
                    assert truth[y, x]
                several = len(answer.prompt.points) > 1
                alone = sam.decode(embedding, [answer.prompt], multimask=not several)
                chosen, best = alone.best()
                near = np.abs(alone.logits[0, chosen[0]]) < 1e-4
                assert not ((best[0] != found) & ~near).any()
                count += 1
    assert count >= 8


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def _of_json(json_file: Path, pictures: Path, name: str):
    content = json.loads(json_file.read_text())
    picture = _picture(pictures / name)
    by_id = {each["id"]: each["segmentation"] for each in content["annotations"]}

    def mask(identity: int) -> np.ndarray:
        segmentation = by_id[identity]
        if isinstance(segmentation, list):
            return regions.from_polygons(segmentation, *picture.shape[:2])
        return regions.from_rle(segmentation)

    return picture, mask


def _of_map(name: str):
    with Image.open(DATA / "nuclei_dsb2018" / "instances" / name) as file:
        numbers = np.asarray(file)
    return _picture(DATA / "nuclei_dsb2018" / "images" / name), lambda i: numbers == i


READ: dict[str, Any] = {
    "coco_instances/val": lambda name: _of_json(
        DATA / "coco_instances" / "instances_val.json", DATA / "coco_instances" / "val", name
    ),
    "lvis_mini": lambda name: _of_json(
        DATA / "lvis_mini" / "lvis_v0.5_val_mini.json", DATA / "lvis_mini" / "images", name
    ),
    "sa1b_layout": lambda name: _of_json(
        DATA / "sa1b_layout" / name.replace(".jpg", ".json"), DATA / "sa1b_layout", name
    ),
    "nuclei_dsb2018": _of_map,
}


# ---------------------------------------------------------------------------------- instances


def by_pycocotools(truth: Path, masks: Path) -> dict[str, float]:
    """AP of a results file on a json, as everybody computes it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(truth))
        evaluation: Any = COCOeval(reference, reference.loadRes(str(masks)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(average_precision.COCO_NAMES, evaluation.stats.tolist(), strict=True))


def near(annotations: list[dict], most: int) -> list[dict]:
    """Boxes like those of a detector: a few per cent off, with scores, some of another category."""
    rng, found = np.random.default_rng(0), []
    for each in annotations[:most]:
        x, y, width, height = each["bbox"]
        off = rng.uniform(-0.06, 0.06, 4) * (width, height, width, height)
        about = {"image_id": each["image_id"], "category_id": each["category_id"]}
        box = (np.array([x, y, width, height]) + off).tolist()
        found.append({**about, "bbox": box, "score": float(rng.random())})
    return found


def measured(argv: list[str], capsys: Any) -> dict:
    assert cli.main(["evaluate", "instances", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@real
@pytest.mark.slow
@pytest.mark.filterwarnings("always::UserWarning")
def test_ap_on_coco_is_that_of_the_masks_that_were_written(model, tmp_path, capsys):
    truth = DATA / "coco_instances" / "instances_val.json"
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(near(json.loads(truth.read_text())["annotations"], 60)))
    argv = ["--model", model, "--data", str(truth), "--boxes", str(boxes)]
    result = measured([*argv, "--out", str(tmp_path / "out")], capsys)
    assert result["masks"] == 60 and result["images"] == 71
    assert result["ap"] == by_pycocotools(truth, tmp_path / "out" / "masks.json")


@pytest.mark.slow
def test_ap_on_scenes_is_that_of_the_masks_that_were_written(tmp_path, capsys):
    """With a model that finds them; the truth of scenes written as COCO's json."""
    source = sources.open_source(ScenesConfig(split="heldout"))
    images, annotations = [], []
    for i in range(6):
        picture, masks = source.read(i).picture.rgb(), source.read(i).annotation("masks").labels
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        for label in range(1, masks.max() + 1):
            mask = masks == label
            shape = {"segmentation": regions.to_rle(mask), "bbox": list(regions.mask_box(mask))}
            about = {"id": len(annotations) + 1, "image_id": i, "category_id": label % 2, **shape}
            annotations.append({**about, "area": int(mask.sum()), "iscrowd": 0})
    categories = [{"id": i, "name": str(i)} for i in (0, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    truth, boxes = tmp_path / "instances.json", tmp_path / "boxes.json"
    truth.write_text(json.dumps(content))
    boxes.write_text(json.dumps(near(annotations, 99)))
    argv = ["--model", "quickstart_teacher", "--data", str(truth), "--boxes", str(boxes)]
    result = measured([*argv, "--out", str(tmp_path / "out")], capsys)
    assert result["ap"] == by_pycocotools(truth, tmp_path / "out" / "masks.json")
    assert result["ap"]["AP"] > 0.3 and result["images"] == 6
