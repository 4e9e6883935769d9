"""An evaluation is kept per picture: killed and resumed it gives what it gives undisturbed."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import nano
from helpers.label_maps import label_maps
from PIL import Image

from esam_jax.config import LabelMapsConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.errors import ConfigError, DataError
from esam_jax.evaluate import numbers, prompts, runner
from esam_jax.evaluate.protocol import Protocol
from esam_jax.ops import regions

PROTOCOL = Protocol(images=6, masks_per_image=2, points=(1, 2), seeds=(0, 1))
NAME = "efficientsam_nano"


def scenes() -> sources.Source:
    return sources.open_source(ScenesConfig(split="heldout"))


def without_times(result: dict) -> dict:
    return {key: value for key, value in result.items() if key not in ("seconds", "resumed")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("undisturbed")
    return out, runner.evaluate(nano.sam(NAME), {"s": scenes()}, PROTOCOL, out=out)


def test_what_is_written_agrees(undisturbed):
    out, result = undisturbed
    assert json.loads((out / "result.json").read_text()) == result
    assert result["resumed"] == 0 and result["images"] == 6
    with (out / "objects.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == result["masks"] == len({(x["picture"], x["object"]) for x in lines})
    # Each number again, from the csv alone, in plain NumPy.
    for row in result["numbers"]:
        column = row["prompt"] + (f"_{row['points']}" if row["points"] else "")
        heads = [f"{column}:seed{s}" for s in (0, 1)] if row["points"] else [column]
        chosen = [x for x in lines if row["size"] in ("all", x["size"])]
        ends = ":oracle" if row["mask"] == "oracle" else ""
        means = [np.mean([float(x[head + ends]) for x in chosen]) for head in heads]
        assert row["miou"] == pytest.approx(np.mean(means), abs=1e-12)
        assert row["masks"] == len(chosen)
        if len(heads) > 1:
            assert row["std"] == pytest.approx(np.std(means, ddof=1), abs=1e-12)
            assert [row["min"], row["max"]] == pytest.approx(sorted(means), abs=1e-12)


def test_pictures_are_listed_from_the_worst_to_the_best(undisturbed):
    out, _ = undisturbed
    with (out / "objects.csv").open(newline="") as file:
        objects = list(csv.DictReader(file))
    with (out / "pictures.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {x["picture"] for x in lines} == {x["picture"] for x in objects} and len(lines) == 6
    for line in lines:
        its = [x for x in objects if x["picture"] == line["picture"]]
        assert int(line["objects"]) == len(its)
        for column in PROTOCOL.columns:
            heads = [x for x in its[0] if x.split(":seed")[0] == column and ":oracle" not in x]
            ious = [float(x[head]) for x in its for head in heads]
            assert float(line[column]) == pytest.approx(np.mean(ious), abs=1e-12)
    means = [float(line["mean"]) for line in lines]
    assert means == sorted(means)


def test_a_picture_that_was_left_out_stands_last_with_its_reason():
    def picture(name, *ious, broken=None):
        objects = [{"ious": {"box": [[iou, 1.0]]}} for iou in ious]
        return {"name": name, "objects": objects, "broken": broken}

    protocol = Protocol(points=())
    found = [picture("a", broken="a is broken"), picture("b", 0.5, 1.0), picture("c", 0.25)]
    lines = numbers.pictures_as_csv({"d": found}, protocol).splitlines()
    assert lines == [
        "data,picture,objects,mean,box,left_out",
        "d,c,1,0.25,0.25,",
        "d,b,2,0.75,0.75,",
        "d,a,0,,,a is broken",
    ]


def test_the_sheet_has_the_worst_pictures_and_objects_first(undisturbed, monkeypatch):
    out, result = undisturbed
    sheets = []
    drawn = runner.sheets.draw.contact_sheet
    monkeypatch.setattr(
        runner.sheets.draw,
        "contact_sheet",
        lambda rows, titles: sheets.append((rows, titles)) or drawn(rows, titles),
    )
    runner.evaluate(nano.sam(NAME), {"s": scenes()}, PROTOCOL, out=out)
    ((rows, titles),) = sheets
    assert titles == ("prompts", "truth", "box", "uniform 1", "uniform 2")
    with (out / "objects.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    ious = {}  # of each object, by picture
    for line in lines:
        columns = [x for x in line if x.startswith(("box", "uniform")) and "oracle" not in x]
        of_object = [float(line[x]) for x in columns]
        # A sheet is of the first seed; pictures are ranked by all.
        first = np.mean([float(line[x]) for x in columns if "seed1" not in x])
        ious.setdefault(line["picture"], []).append((first, np.mean(of_object), line))
    means = {name: np.mean([mean for _, mean, _ in each]) for name, each in ious.items()}
    assert [row.name for row in rows] == sorted(means, key=lambda name: means[name])
    for row in rows:
        areas = [int(each["area"]) for _, _, each in sorted(ious[row.name], key=lambda x: x[0])]
        assert row.masks[0].sum((1, 2)).tolist() == areas  # scenes are drawn at their size
    assert result["images"] == len(rows)


@pytest.mark.parametrize("left", [1, 4])
def test_a_killed_one_resumes_with_what_is_left(undisturbed, left, tmp_path, monkeypatch):
    _, wanted = undisturbed
    put, counts = runner.Kept.put, []

    def killed(self, place, content):
        if len(counts) == left:
            raise KeyboardInterrupt
        counts.append(place)
        put(self, place, content)

    monkeypatch.setattr(runner.Kept, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        runner.evaluate(nano.sam(NAME), {"s": scenes()}, PROTOCOL, out=tmp_path)
    monkeypatch.setattr(runner.Kept, "put", put)
    # What another process has begun and not finished is neither read nor kept.
    torn = tmp_path / "pictures" / "0" / "00000001.json"
    torn.write_text('{"name": "heldo')
    seen: list[int] = []
    measure = prompts.measure

    def watched(model, source, places, *rest, **options):
        seen.extend(places)
        return measure(model, source, places, *rest, **options)

    monkeypatch.setattr(prompts, "measure", watched)
    monkeypatch.setattr(runner.sheets, "worst", lambda *_: b"")
    result = runner.evaluate(nano.sam(NAME), {"s": scenes()}, PROTOCOL, out=tmp_path)
    assert result["resumed"] == left and len(seen) == 6 - left and not set(seen) & set(counts)
    assert without_times(result) == without_times(wanted)


@pytest.mark.slow
def test_a_process_that_is_killed_resumes(undisturbed, tmp_path):
    folder, code = tmp_path / "out", "import test_runner; test_runner.run_in_a_process()"
    command = [sys.executable, "-c", code, str(folder)]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # two pictures are kept
        process.send_signal(signal.SIGKILL)
    kept = len(list(folder.glob("pictures/0/*.json")))
    assert 2 <= kept < 6 and not (folder / "result.json").exists()
    result = runner.evaluate(nano.sam(NAME), {"s": scenes()}, PROTOCOL, out=folder)
    assert result["resumed"] == kept
    assert without_times(result) == without_times(undisturbed[1])


def run_in_a_process():
    """As above, with a line when the second picture is kept, and then slowly."""
    import time

    put, counts = runner.Kept.put, []

    def slowly(self, place, content):
        put(self, place, content)
        counts.append(place)
        if len(counts) == 2:
            print("kept", flush=True)
            time.sleep(60)

    runner.Kept.put = slowly
    runner.evaluate(nano.sam(NAME), {"s": scenes()}, PROTOCOL, out=Path(sys.argv[1]))


def test_other_settings_model_or_data_are_refused(undisturbed):
    out, _ = undisturbed
    for sam, data, protocol in (
        (nano.sam("sam_nano"), scenes(), PROTOCOL),
        (nano.sam(NAME), scenes(), Protocol(images=6, masks_per_image=2, points=(1, 2))),
        (nano.sam(NAME), sources.open_source(ScenesConfig(split="train")), PROTOCOL),
    ):
        with pytest.raises(ConfigError, match="made with other settings"):
            runner.evaluate(sam, {"s": data}, protocol, out=out)


def test_data_sets_in_another_order_are_refused(tmp_path):
    """Each has its own folder, by its place."""
    (tmp_path / "maps").mkdir()
    maps = sources.open_source(LabelMapsConfig(path=str(label_maps(tmp_path / "maps"))))
    data, protocol = {"s": scenes(), "m": maps}, Protocol(images=3, masks_per_image=1)
    runner.evaluate(nano.sam(NAME), data, protocol, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="made with other settings"):
        turned = dict(reversed(data.items()))
        runner.evaluate(nano.sam(NAME), turned, protocol, out=tmp_path / "out")


def test_several_data_sets_count_alike(tmp_path):
    maps = sources.open_source(LabelMapsConfig(path=str(label_maps(tmp_path))))
    data = {"maps": maps, "scenes": scenes()}
    protocol = Protocol(images=3, masks_per_image=4)
    both = runner.evaluate(nano.sam(NAME), data, protocol)
    each = {name: runner.evaluate(nano.sam(NAME), {name: data[name]}, protocol) for name in data}
    assert [x["masks"] for x in both["data"]] == [each[name]["masks"] for name in data]
    for row in both["numbers"]:
        if row["size"] != "all":
            continue
        name = {"prompt": row["prompt"], "points": row["points"], "mask": row["mask"]}
        alone = {name_: numbers.miou(each[name_]["numbers"], **name) for name_ in data}
        assert row["data"] == alone
        assert row["miou"] == pytest.approx(np.mean(list(alone.values())), abs=1e-12)
        counts = [x["masks"] for x in both["data"]]
        assert row["per_mask"] == pytest.approx(
            np.average(list(alone.values()), weights=counts), abs=1e-12
        )
    assert numbers.miou(both["numbers"], "box", size="large") != numbers.miou([], "box")


# ----------------------------------------------------------------- bad annotations (acceptance 7)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Pictures 1 and 2 of 40 x 60 with a good object each."""
    for number in (1, 2):
        Image.fromarray(nano.picture(40, 60, number)).save(tmp_path / f"{number}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)],
        "annotations": [annotation(i, i) for i in (1, 2)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path / "instances.json"


def annotation(identity: int, picture: int, **changes) -> dict:
    square = [[5, 5, 30, 5, 30, 25, 5, 25]]
    about = {"id": identity, "image_id": picture, "category_id": 1, "iscrowd": 0, "area": 500}
    return {**about, "bbox": [5, 5, 25, 20], "segmentation": square, **changes}


def test_the_order_of_a_json_changes_no_number(coco: Path):
    """Nor which objects are drawn, nor their clicks: all follow names and ids."""
    content = json.loads(coco.read_text())
    for i in range(6):
        x, y = 4 * i, 3 * i
        shape = [[x, y, x + 14, y, x + 14, y + 9, x, y + 9]]
        content["annotations"].append(annotation(20 + i, 1 + i % 2, segmentation=shape))
    coco.write_text(json.dumps(content))
    options = {"masks_per_image": 2, "points": (1, 2), "clicks": ("uniform", "centre")}
    wanted = measured(coco, **options)
    for name in ("images", "annotations"):
        content[name] = content[name][::-1]
    coco.write_text(json.dumps(content))
    found = measured(coco, **options)
    assert found["numbers"] == wanted["numbers"] and found["masks"] == 4
    assert found["data"][0]["hash"] != wanted["data"][0]["hash"]  # it is another file


EMPTY = {"size": [40, 60], "counts": [40 * 60]}
CROWD = {"size": [40, 60], "counts": [400, 300, 1700]}
BAD = {
    "a crowd": (annotation(77, 1, iscrowd=1, segmentation=CROWD), "crowds_left_out", "id 77"),
    "an empty mask": (annotation(77, 1, segmentation=EMPTY), "objects_left_out", "id 77"),
    "no segmentation": (annotation(77, 1, segmentation=[]), "objects_left_out", "id 77"),
    "far outside": (
        annotation(77, 1, segmentation=[[500, 500, 600, 500, 600, 600]]),
        "objects_left_out",
        "id 77",
    ),
    "outside by less than a frame": (
        annotation(77, 1, segmentation=[[70, 5, 90, 5, 90, 25]]),
        "objects_left_out",
        "id 77",
    ),
    "another size": (
        annotation(77, 1, segmentation={"size": [9, 9], "counts": [40, 41]}),
        "objects_left_out",
        "id 77",
    ),
    "an unknown picture": (annotation(77, 9), "objects_left_out", "image 9"),
    "a picture id of no kind": (annotation(77, [1]), "objects_left_out", "annotation 2"),  # type: ignore
    "a crowd that is neither": (annotation(77, 1, iscrowd=7), "objects_left_out", "id 77"),
    "the same object twice": (annotation(1, 1), "objects_left_out", "id 1"),
}
BAD_BOXES = {
    "a box of zero width": annotation(77, 1, bbox=[5, 5, 0, 20]),
    "a box outside": annotation(77, 1, bbox=[200, 5, 20, 20]),
    "a box that is none": annotation(77, 1, bbox=["a"]),
    "a box beyond float64": annotation(77, 1, bbox=[5, 5, 20, 10**400]),
    "no box": annotation(77, 1, bbox=None),
}


def measured(file: Path, **options) -> dict:
    source = sources.open_source(sources.detect(str(file)))
    return runner.evaluate(nano.sam(NAME), {"coco": source}, Protocol(**options))


def with_one_more(file: Path, bad: dict) -> Path:
    content = json.loads(file.read_text())
    content["annotations"].append(bad)
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("case", BAD)
def test_a_bad_object_is_named_and_changes_no_number(case: str, coco: Path):
    bad, kind, named = BAD[case]
    wanted = measured(coco)
    with pytest.warns(UserWarning, match="left out, the first: "):
        found = measured(with_one_more(coco, bad))
    assert found["numbers"] == wanted["numbers"] and found["masks"] == 2
    (of_set,) = found["data"]
    assert of_set[kind] == 1 and any(named in reason for reason in of_set["reasons"])


@pytest.mark.parametrize("case", BAD_BOXES)
def test_a_bad_box_is_named_where_boxes_are_given(case: str, coco: Path):
    wanted = measured(coco, boxes="given")
    file = with_one_more(coco, BAD_BOXES[case])
    with pytest.warns(UserWarning, match="1 object left out, the first: .*object 77"):
        found = measured(file, boxes="given")
    assert found["numbers"] == wanted["numbers"] and found["masks"] == 2
    assert measured(file)["masks"] == 3  # tight boxes do not need it


def test_data_of_bad_objects_alone_is_an_error_that_says_why(coco: Path):
    content = json.loads(coco.read_text())
    for each in content["annotations"]:
        each["segmentation"] = EMPTY
    coco.write_text(json.dumps(content))
    with (
        pytest.warns(UserWarning, match="2 broken pictures left out"),
        pytest.raises(DataError, match=r"none of 2 pictures of coco .*1 of 1 object cannot"),
    ):
        measured(coco)


def test_iou_of_given_boxes_is_that_of_plain_numpy(coco: Path):
    """From the picture and the json alone, through the public interface."""
    import esam_jax as esam

    row = measured(coco, boxes="given", clicks=())["numbers"][0]
    sam, ious = nano.sam(NAME), []
    for number in (1, 2):
        with Image.open(coco.parent / f"{number}.png") as file:
            picture = np.asarray(file.convert("RGB"))
        masks = sam.segment(picture, [esam.Prompt(box=[5, 5, 30, 25])])
        truth = regions.from_polygons(annotation(0, 0)["segmentation"], 40, 60)
        best = masks.binary()[0, masks.scores[0].argmax()]
        ious.append((best & truth).sum() / (best | truth).sum())
    assert row["miou"] == (ious[0] + ious[1]) / 2
