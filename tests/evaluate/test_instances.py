"""Masks from boxes of a detector: golden AP, the public interface, kills, and bad results."""

import csv
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax import cli
from esam_jax.convert import model_folder
from esam_jax.errors import ConfigError, DataError, MissingError
from esam_jax.evaluate import average_precision, detections, ground_truth, instances
from esam_jax.evaluate.instances import Instances
from esam_jax.models import named
from esam_jax.ops import regions
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt

HAS_HOTCOCO = importlib.util.find_spec("hotcoco") is not None
GOLDEN = Path(__file__).parents[1] / "golden"
NAME = "efficientsam_nano"


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:48, :64]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


DISCS = {1: [(20, 20, 12), (50, 30, 9)], 2: [(30, 24, 15)], 7: [(12, 12, 8), (40, 34, 11)]}


def annotation(identity: int, picture: int, mask: np.ndarray, **changes) -> dict:
    about = {"id": identity, "image_id": picture, "category_id": 1 + identity % 2, "iscrowd": 0}
    shape = {"segmentation": regions.to_runs(mask), "area": float(mask.sum())}
    return {**about, **shape, "bbox": list(regions.mask_box(mask)), **changes}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Four pictures, the last without an object; five objects in all."""
    objects = []
    for picture, discs in DISCS.items():
        for place in discs:
            objects.append(annotation(len(objects) + 10, picture, disc(*place)))
    images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in (*DISCS, 9)]
    for each in images:
        Image.fromarray(nano.picture(48, 64, each["id"])).save(tmp_path / each["file_name"])
    categories = [{"id": i, "name": f"thing {i}"} for i in (1, 2)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path / "instances.json"


def results(truth: Path) -> list[dict]:
    """A box a pixel off for each object, and one more, which leaves the picture."""
    found = []
    for i, each in enumerate(json.loads(truth.read_text())["annotations"]):
        x, y, width, height = each["bbox"]
        box = {"bbox": [x + 1, y - 1.5, width, height], "score": 0.9 - 0.1 * i}
        found.append({"image_id": each["image_id"], "category_id": each["category_id"], **box})
    return [*found, {**found[0], "bbox": [40, -5.5, 40.5, 18], "score": 0.05}]


def boxes(truth: Path, found: list, name: str = "boxes.json") -> Path:
    (truth.parent / name).write_text(json.dumps(found))
    return truth.parent / name


def evaluated(truth: Path, found: list, sam=None, out: Path | None = None, **how) -> dict:
    read = ground_truth.read(truth, lvis=how.get("annotations") == "lvis")
    chosen = detections.read(boxes(truth, found), read)
    sam = nano.sam(NAME) if sam is None else sam
    return instances.evaluate(sam, read, chosen, Instances(**how), out=out)


# ------------------------------------------------------------------------------------- golden


def golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("case", ["a", "b"])
def test_ap_of_coco_is_that_of_the_golden_cases(case: str, kind):
    data = golden(f"coco_ap_{case}")
    found = average_precision.coco(data["gt"], data["detections"], kind)
    for name in average_precision.COCO_NAMES:
        assert found.numbers[name] == pytest.approx(data["expected"][kind][name], abs=1e-9), name
    assert (found.difference is not None) == HAS_HOTCOCO
    assert found.difference is None or found.difference <= 1e-6


@pytest.mark.skipif(not HAS_HOTCOCO, reason="hotcoco is not installed")
@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("case", ["a", "b"])
def test_ap_of_lvis_is_that_of_the_golden_cases(case: str, kind):
    data = golden(f"lvis_{case}")
    found = average_precision.lvis(data["gt"], data["detections"], kind)
    assert set(found.numbers) == set(data["expected"][kind])
    for name, value in data["expected"][kind].items():
        assert found.numbers[name] == pytest.approx(value, abs=1e-9), name


def test_without_hotcoco_lvis_says_what_to_install(truth, monkeypatch):
    monkeypatch.setattr(average_precision, "_has_hotcoco", lambda: False)
    with pytest.raises(MissingError, match=r"pip install 'esam_jax\[eval\]'"):
        average_precision.require_lvis()
    with_one = average_precision.coco(ground_truth.read(truth).dataset, [], "segm")
    assert with_one.difference is None and set(with_one.numbers.values()) <= {0.0, -1.0}


@pytest.mark.skipif(not HAS_HOTCOCO, reason="hotcoco is not installed")
def test_a_difference_between_the_packages_is_reported(truth, monkeypatch):
    data = ground_truth.read(truth).dataset
    monkeypatch.setattr(
        average_precision,
        "_by_hotcoco",
        lambda *_, **__: dict.fromkeys(average_precision.COCO_NAMES, 0.5),
    )
    with pytest.warns(UserWarning, match="pycocotools and hotcoco differ by"):
        found = average_precision.coco(data, [], "segm")
    assert found.difference is not None and found.difference >= 0.5 and found.numbers["AP"] == 0


# ------------------------------------------------------------------------------ masks and scores


def slow_ap(truth: Path, masks: list[dict], threshold: float) -> float:
    """AP at one IoU by the definition: detections in the order of their scores, each matched to the
    free object of highest IoU; precision at 101 recalls; mean over categories. Without crowds."""
    content = json.loads(truth.read_text())
    values = []
    for category in {each["category_id"] for each in content["annotations"]}:
        objects = {
            each["id"]: (each["image_id"], regions.from_rle(each["segmentation"]))
            for each in content["annotations"]
            if each["category_id"] == category
        }
        free, hits = set(objects), []
        chosen = [each for each in masks if each["category_id"] == category]
        for each in sorted(chosen, key=lambda x: -x["score"]):
            found = regions.from_rle(each["segmentation"])
            ious = {
                identity: regions.iou(found, objects[identity][1])
                for identity in free
                if objects[identity][0] == each["image_id"]
            }
            best = max(ious, key=lambda identity: ious[identity], default=None)
            hits.append(best is not None and ious[best] >= threshold)
            if hits[-1]:
                free.remove(best)
        true = np.cumsum(hits)
        recall, precision = true / len(objects), true / np.arange(1, len(hits) + 1)
        at = [precision[recall >= level - 1e-12] for level in np.linspace(0, 1, 101)]
        values.append(np.mean([each.max() if each.size else 0 for each in at]))
    return float(np.mean(values))


def test_masks_and_ap_are_those_of_a_slow_computation(truth, tmp_path, monkeypatch):
    """The exported results, one mask at a time through the public interface, AP by definition."""
    monkeypatch.setattr(instances, "_BOXES", 2)  # of three in the first picture
    out = tmp_path / "out"
    result = evaluated(truth, results(truth), out=out)
    masks = json.loads((out / "masks.json").read_text())
    assert json.loads((out / "result.json").read_text()) == result
    assert len(masks) == result["masks"] == 6 and result["images"] == 4
    sam = nano.sam(NAME)
    by_score = {each["score"]: each for each in masks}
    for box in results(truth):
        with Image.open(truth.parent / f"{box['image_id']}.png") as file:
            picture = np.asarray(file.convert("RGB"))
        x, y, width, height = box["bbox"]
        corners = [x, max(y, 0), min(x + width, 64), min(y + height, 48)]
        found = sam.segment(picture, [Prompt(box=corners)])
        best = found.binary()[0, found.scores[0].argmax()]
        mask = by_score[box["score"]]
        assert (regions.from_rle(mask["segmentation"]) == best).all()
        assert set(mask) == {"image_id", "category_id", "score", "segmentation"}
        assert (mask["image_id"], mask["category_id"]) == (box["image_id"], box["category_id"])
    assert result["ap"]["AP50"] == pytest.approx(slow_ap(truth, masks, 0.5), abs=1e-12)
    levels = [slow_ap(truth, masks, t) for t in np.linspace(0.5, 0.95, 10)]
    assert result["ap"]["AP"] == pytest.approx(np.mean(levels), abs=1e-12)
    assert result["box_ap"]["AP50"] > 0.9 > result["ap"]["AP50"]
    assert result.get("difference", 0) <= 1e-6


def test_objects_and_worst_pictures(truth, tmp_path):
    """The best mask of each object's category, again in NumPy from what was written."""
    content = json.loads(truth.read_text())
    crowd = annotation(99, 1, disc(32, 24, 20), iscrowd=1)
    content["annotations"].append(crowd)
    boxes_of = results(truth)[:-2]  # none for the last object
    truth.write_text(json.dumps(content))
    out = tmp_path / "out"
    evaluated(truth, boxes_of, out=out)
    masks = json.loads((out / "masks.json").read_text())
    with (out / "objects.csv").open(newline="") as file:
        rows = {int(each["object"]): each for each in csv.DictReader(file)}
    assert list(rows) == [10, 11, 12, 13, 14]
    for each in content["annotations"][:-1]:
        mask = regions.from_rle(each["segmentation"])
        ious = [
            (regions.iou(regions.from_rle(x["segmentation"]), mask), x["score"])
            for x in masks
            if (x["image_id"], x["category_id"]) == (each["image_id"], each["category_id"])
        ]
        iou, score = max(ious, key=lambda pair: pair[0], default=(0.0, 0.0))
        row = rows[each["id"]]
        assert (float(row["iou"]), float(row["score"])) == (pytest.approx(iou, abs=1e-12), score)
        assert (row["picture"], row["size"]) == (f"{each['image_id']}.png", "small")
        assert float(row["area"]) == mask.sum()
    assert rows[14]["score"] == "0.0"
    with Image.open(out / "worst.png") as sheet:
        assert sheet.size[0] > 3 * 208 and sheet.size[1] > 3 * 150  # three pictures with objects


def test_the_stated_area_decides_which_objects_are_small(truth, tmp_path):
    """As pycocotools has it: that of polygons is not the number of pixels."""
    content = json.loads(truth.read_text())
    content["annotations"][0]["area"] = 40.0**2
    truth.write_text(json.dumps(content))
    result = evaluated(truth, results(truth), out=tmp_path / "out")
    with (tmp_path / "out" / "objects.csv").open(newline="") as file:
        rows = {int(each["object"]): each for each in csv.DictReader(file)}
    assert (rows[10]["size"], rows[11]["size"]) == ("medium", "small")
    assert float(rows[10]["area"]) == 1600
    assert result["box_ap"]["APm"] > 0 and result["box_ap"]["APl"] == -1


def test_perfect_masks_score_one(truth):
    """The slow AP, and the scorers, of masks that are the truth itself."""
    content = json.loads(truth.read_text())
    data = ground_truth.read(truth)
    masks = [
        {**{k: each[k] for k in ("image_id", "category_id", "segmentation")}, "score": 0.5 + i / 99}
        for i, each in enumerate(content["annotations"])
    ]
    numbers = [
        {**each, "image_id": data.pictures[each["image_id"]].number,
         "segmentation": regions.compress(each["segmentation"])}
        for each in masks
    ]  # fmt: skip
    assert average_precision.coco(data.dataset, numbers, "segm").numbers["AP"] == 1
    assert slow_ap(truth, masks, 0.95) == 1


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("choose", ["confident", "box_iou"])
def test_choice_and_second_pass(truth, choose, refine):
    sam = nano.sam("sam_nano")  # with mask prompts and a single mask
    data = ground_truth.read(truth)
    found = detections.read(boxes(truth, results(truth)), data)
    image = nano.picture(48, 64, 1)
    embedding = sam.encode(image)
    masks = instances._found(sam, embedding, found.of[1], Instances(choose=choose, refine=refine))
    assert len(masks) == 3
    for box, rle in zip(found.of[1], masks, strict=True):
        candidates = sam.decode(embedding, [Prompt(box=box.corners)])
        x0, y0, x1, y1 = box.corners
        rows, columns = np.mgrid[:48, :64] + 0.5
        filled = (columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)
        ious = [regions.iou(each, filled) for each in candidates.binary()[0]]
        best = int(np.argmax(candidates.scores[0] if choose == "confident" else ious))
        wanted = candidates.binary()[0, best]
        if refine:
            prompt = Prompt(box=box.corners, mask=candidates.low_res[0, best])
            wanted = sam.decode(embedding, [prompt], multimask=False).binary()[0, 0]
        assert (regions.from_rle(rle) == wanted).all()
    assert isinstance(candidates, Masks)


def test_a_filled_box_has_the_pixels_whose_centres_lie_in_it():
    """Of 7 x 6 pixels: columns 2 to 4 (centres 2.5 to 4.5) and rows 1 to 3."""
    box = detections.Detection(0, 1, 0.5, (2.5, 0.6, 2.0, 3.4), (2.5, 0.6, 4.5, 4.0))
    candidates = np.zeros((3, 6, 7), bool)
    candidates[0, 1:4, 2:5] = True
    candidates[1, 1:4, 2:6] = True
    candidates[2, 0:1] = True
    assert instances.box_ious(candidates, box).tolist() == [1, 9 / 12, 0]


def test_what_a_model_cannot_take_is_refused(truth):
    with pytest.raises(ConfigError, match="never learned mask prompts"):
        evaluated(truth, results(truth), refine=True)


def test_a_killed_one_resumes_and_devices_do_not_matter(truth, tmp_path, monkeypatch):
    wanted = evaluated(truth, results(truth))
    put, counts = instances.Kept.put, []

    def killed(self, place, content):
        if len(counts) == 2:
            raise KeyboardInterrupt
        counts.append(place)
        put(self, place, content)

    monkeypatch.setattr(instances.Kept, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluated(truth, results(truth), out=tmp_path / "out")
    monkeypatch.setattr(instances.Kept, "put", put)
    local = jax.local_devices()
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: local[:1])
    found = evaluated(truth, results(truth), out=tmp_path / "out")
    assert found["resumed"] == 2 and wanted["resumed"] == 0
    times = ("seconds", "resumed")
    assert {k: v for k, v in found.items() if k not in times} == {
        k: v for k, v in wanted.items() if k not in times
    }
    with pytest.raises(ConfigError, match="made with other settings"):
        evaluated(truth, results(truth), out=tmp_path / "out", choose="box_iou")
    with pytest.raises(ConfigError, match="made with other settings"):
        evaluated(truth, results(truth)[:-1], out=tmp_path / "out")


def test_neither_the_order_of_objects_nor_of_boxes_matters(truth):
    wanted = evaluated(truth, results(truth))
    content = json.loads(truth.read_text())
    content["images"] = content["images"][::-1]
    content["annotations"] = content["annotations"][::-1]
    found = results(truth)[::-1]
    truth.write_text(json.dumps(content))
    assert evaluated(truth, found)["ap"] == wanted["ap"]


@pytest.mark.skipif(not HAS_HOTCOCO, reason="hotcoco is not installed")
def test_lvis_rules(truth):
    """A detection of a category that a picture neither has nor lacks for certain counts nothing."""
    with pytest.raises(DataError, match="has no frequency of r, c or f"):
        evaluated(truth, results(truth), annotations="lvis")
    content = json.loads(truth.read_text())
    for each, frequency in zip(content["categories"], "rf", strict=True):
        each["frequency"] = frequency
    for each in content["images"]:
        each |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth.write_text(json.dumps(content))
    found = results(truth)
    wanted = evaluated(truth, found, annotations="lvis")
    assert set(wanted["ap"]) == set(average_precision.LVIS_NAMES)
    assert wanted["by"].startswith("hotcoco") and wanted["ap"]["APc"] == -1
    unknown = {**found[0], "image_id": 9, "score": 1.0}  # the picture without an object
    assert evaluated(truth, [*found, unknown], annotations="lvis")["ap"] == wanted["ap"]
    content["images"][-1]["neg_category_ids"] = [unknown["category_id"]]
    truth.write_text(json.dumps(content))
    worse = evaluated(truth, [*found, unknown], annotations="lvis")["box_ap"]["AP"]
    assert worse < wanted["box_ap"]["AP"]


# --------------------------------------------------------------- bad annotations (acceptance 7)

BAD_OBJECTS = {
    "an empty mask": {"segmentation": {"size": [48, 64], "counts": [48 * 64]}},
    "outside": {"segmentation": [[100, 50, 120, 50, 120, 60]]},
    "another size": {"segmentation": {"size": [9, 9], "counts": [40, 41]}},
    "no segmentation": {"segmentation": []},
    "an unknown picture": {"image_id": 4},
    "an unknown category": {"category_id": 5},
    "a category of no kind": {"category_id": None},
    "neither crowd nor not": {"iscrowd": "perhaps"},
}


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_a_bad_object_is_named_and_changes_no_number(case: str, truth):
    wanted = evaluated(truth, results(truth))
    found = results(truth)
    content = json.loads(truth.read_text())
    content["annotations"].insert(1, annotation(77, 1, disc(30, 20, 9), **BAD_OBJECTS[case]))
    truth.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"1 object left out, the first: .*\(id 77\)"):
        result = evaluated(truth, found)
    assert (result["ap"], result["box_ap"]) == (wanted["ap"], wanted["box_ap"])
    assert result["objects_left_out"] == 1 and "(id 77)" in result["reasons"][0]


@pytest.mark.parametrize(
    "case",
    [
        "a box of zero width",
        "a box beyond float64",
        "no box",
        "an area that is none",
        "an area beyond float64",
    ],
)
def test_a_box_or_an_area_that_is_none_is_that_of_the_mask(case: str, truth):
    changes = {
        "a box of zero width": {"bbox": [5, 5, 0, 9]},
        "a box beyond float64": {"bbox": [5, 5, 9, 10**400]},
        "no box": {"bbox": None},
        "an area that is none": {"area": "large"},
        "an area beyond float64": {"area": 10**400},
    }
    wanted, found = evaluated(truth, results(truth)), results(truth)
    content = json.loads(truth.read_text())
    content["annotations"][0] |= changes[case]
    truth.write_text(json.dumps(content))
    result = evaluated(truth, found)
    assert (result["ap"], result["box_ap"]) == (wanted["ap"], wanted["box_ap"])


@pytest.mark.parametrize("identity", [0, None, 11])
def test_ids_of_objects_matter_to_nobody(identity, truth):
    """pycocotools alone would take 0 for no object, and one that occurs twice for one object."""
    wanted, found = evaluated(truth, results(truth)), results(truth)
    content = json.loads(truth.read_text())
    content["annotations"][0]["id"] = identity
    truth.write_text(json.dumps(content))
    if identity == 11:  # of the next object, too
        with pytest.warns(UserWarning, match="1 repeated id, the first: .*the id 11 stands for"):
            result = evaluated(truth, found)
        assert result["ids_repeated"] == 1
    else:
        result = evaluated(truth, found)
    assert (result["ap"], result["box_ap"]) == (wanted["ap"], wanted["box_ap"])


def test_the_same_object_twice_is_one(truth):
    wanted, found = evaluated(truth, results(truth)), results(truth)
    content = json.loads(truth.read_text())
    content["annotations"].append(dict(content["annotations"][0]))
    truth.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"\(id 10\): it repeats an earlier one"):
        result = evaluated(truth, found)
    assert (result["ap"], result["objects_left_out"]) == (wanted["ap"], 1)


def test_crowds_are_regions_to_be_ignored(truth):
    """A detection in a crowd counts neither for nor against; without it, it is a false one."""
    found = [*results(truth), {**results(truth)[0], "bbox": [5, 36, 50, 10], "score": 1.0}]
    wanted, worse = evaluated(truth, results(truth)), evaluated(truth, found)
    content = json.loads(truth.read_text())
    region = np.zeros((48, 64), bool)
    region[35:47, 4:60] = True
    category = found[0]["category_id"]
    crowd = annotation(80, 1, region, iscrowd=1, category_id=category)
    content["annotations"].append(crowd)
    truth.write_text(json.dumps(content))
    ignored = evaluated(truth, found)
    assert worse["box_ap"]["AP"] < wanted["box_ap"]["AP"] == ignored["box_ap"]["AP"]


BAD_RESULTS = {
    "an unknown picture": {"image_id": 4},
    "a picture of no kind": {"image_id": [1]},
    "an unknown category": {"category_id": 5},
    "a category of no kind": {"category_id": True},
    "a box of zero width": {"bbox": [5, 5, 0, 9]},
    "a box of negative height": {"bbox": [5, 5, 9, -9]},
    "a box outside": {"bbox": [500, 5, 9, 9]},
    "a box of three numbers": {"bbox": [5, 5, 9]},
    "a box of text": {"bbox": [5, 5, 9, "9"]},
    "a box that is not finite": {"bbox": [5, 5, 9, float("nan")]},
    "a box of an integer beyond float64": {"bbox": [5, 5, 9, 10**400]},
    "no score": {"score": None},
    "a score beyond float64": {"score": 10**400},
    "a score that is not finite": {"score": float("inf")},
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_a_bad_detection_is_named_and_changes_no_number(case: str, truth):
    wanted, found = evaluated(truth, results(truth)), results(truth)
    found.insert(2, {**found[0], "score": 0.99, **BAD_RESULTS[case]})
    with pytest.warns(UserWarning, match="1 detection left out, the first: boxes.json: entry 2: "):
        result = evaluated(truth, found)
    assert (result["ap"], result["box_ap"]) == (wanted["ap"], wanted["box_ap"])
    assert result["detections_left_out"] == 1 and "entry 2" in result["reasons"][0]


def test_a_broken_picture_is_left_out_of_both(truth):
    """Its objects would count as missed, and its boxes not at all."""
    found = results(truth)
    (truth.parent / "2.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"1 broken picture left out, the first: .*2\.png"):
        result = evaluated(truth, found)
    content = json.loads(truth.read_text())
    for key, name in (("images", "id"), ("annotations", "image_id")):
        content[key] = [each for each in content[key] if each[name] != 2]
    truth.write_text(json.dumps(content))
    wanted = evaluated(truth, [each for each in found if each["image_id"] != 2])
    assert (result["ap"], result["box_ap"]) == (wanted["ap"], wanted["box_ap"])
    assert (result["skipped"], result["images"], wanted["images"]) == (1, 3, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("{}", "holds a dict: give a list"),
        ("[]", "has no box for a picture of"),
        ('[{"image_id": 4}]', r"has no box .*entry 0: its image_id is 4, which instances.json"),
        ("[7]", "entry 0: it is 7, but must be an object"),
    ],
)
def test_files_without_a_box_are_refused(truth, text, message):
    file = truth.parent / "boxes.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        detections.read(file, ground_truth.read(truth))


# ------------------------------------------------------------------------------------- command


def test_the_command(truth, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("model")
    config = named.sam(NAME)
    model_folder.write(folder, config, nano.params(config), source="a test")
    out, file = tmp_path_factory.mktemp("found") / "out", boxes(truth, results(truth))
    argv = ["evaluate", "instances", "--model", str(folder), "--data", str(truth)]
    argv += ["--boxes", str(file), "--choose", "box_iou"]
    assert cli.main([*argv, "--json", "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["masks"] == 6 and (out / "masks.json").exists()
    assert b">IoU<" in (out / "ious.svg").read_bytes()
    assert cli.main(argv) == 0
    shown, said = capsys.readouterr()
    assert f"{result['ap']['AP']:.4f}" in shown and result["protocol"] in shown and said == ""
    assert "the one whose IoU with the filled box is highest" in shown
    for text in (result["data"], result["boxes"], result["model_hash"], "no published numbers"):
        assert text in shown
    assert cli.main([*argv, "--refine"]) == 2
    assert "never learned mask prompts" in capsys.readouterr().err
    assert cli.main([*argv[:-4], "--boxes", str(truth)]) == 2
    assert "holds a dict" in capsys.readouterr().err
