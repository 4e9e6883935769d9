"""The measurement follows its protocol: an oracle scores 1, a filled box scores the baseline."""

import dataclasses
import itertools

import numpy as np
import pytest
from helpers import nano

from esam_jax import sharding
from esam_jax.config import EvaluateConfig, MeshConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.mask_sets import Object
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.errors import ConfigError, DataError
from esam_jax.evaluate import prompts, targets
from esam_jax.evaluate.protocol import Protocol, Takes, size_of
from esam_jax.evaluate.questions import Answer
from esam_jax.evaluate.talks import Rules
from esam_jax.ops import regions
from esam_jax.predict.prompt import Prompt


@dataclasses.dataclass
class Masks:
    """A MaskSet in memory."""

    masks: np.ndarray
    boxes: list | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def describe(self, index: int) -> Object:
        return Object(f"object {index}", self.boxes[index] if self.boxes else None)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        if not self.masks[index].any():
            raise DataError(f"mask {index} is broken")
        return Bitmap.of(self.masks[index][grid.rows][:, grid.columns])


class Pictures:
    """A Source in memory."""

    def __init__(self, masks: list[np.ndarray | None], boxes: list | None = None) -> None:
        self._masks, self._boxes = masks, boxes

    def __len__(self) -> int:
        return len(self._masks)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def read(self, index: int) -> Record:
        masks = self._masks[index]
        image = np.full((24, 32, 3), index, np.uint8)
        found = {} if masks is None else {"masks": Masks(masks, self._boxes)}
        return Record(self.name(index), Pixels(image), found)


class Fake:
    """Answers each query with what `answer(masks of the picture, query)` says, two pictures at a
    time; `asked` are all queries so far."""

    rows, read, own = 2, (0, 1), frozenset((0, 1))

    def __init__(self, answer) -> None:
        self._answer, self.asked, self._views = answer, [], {}

    def open(self, views):
        self._views = {row: [mask.dense() for mask in view.masks] for row, view in views.items()}
        return self

    def ask(self, queries, want):
        return {row: [self._one(self._views[row], each) for each in asked]
                for row, asked in queries.items()}  # fmt: skip

    def _one(self, masks, query):
        self.asked.append(query)
        found = self._answer(masks, query)
        iou = regions.iou(found, masks[query.mask])
        logits = np.full((4, 4), len(self.asked), np.float32)
        return Answer(iou, iou, Bitmap.of(found), logits)


def ellipse(x: float, y: float, a: float, b: float) -> np.ndarray:
    rows, columns = np.mgrid[:24, :32]
    return ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 < 1


THREE = np.stack([ellipse(8, 8, 6, 5), ellipse(22, 12, 7, 9), ellipse(5, 20, 3, 3)])
DOT = np.zeros((1, 24, 32), bool)
DOT[0, 2:5, 2:7] = True  # 15 pixels: one too few
LINE = np.zeros((1, 24, 32), bool)
LINE[0, 3, 4:24] = True
NOTHING = np.zeros((1, 24, 32), bool)  # which the masks here call broken
ALL = Takes(background=True, masks=True, single=True, slots=None, zero_is_inside=False)
LITTLE = Takes(background=False, masks=False, single=False, slots=6, zero_is_inside=True)


def under(masks, query) -> np.ndarray:
    """The mask under the first point, or the one whose tight box was given."""
    if len(query.prompt.points):
        x, y = query.prompt.points[0].astype(int)
        return next(mask for mask in masks if mask[y, x])
    return next(mask for mask in masks if (box_of(mask) == query.prompt.box).all())


def box_of(mask: np.ndarray) -> np.ndarray:
    x, y, width, height = regions.mask_box(mask)
    return np.array([x, y, x + max(1, width - 1), y + max(1, height - 1)])


def filled(masks, query) -> np.ndarray:
    out = np.zeros((24, 32), bool)
    if query.prompt.box is not None:
        x0, y0, x1, y1 = query.prompt.box.astype(int)
        out[y0 : y1 + 1, x0 : x1 + 1] = True
    return out


def run(source, answer, takes=ALL, **options):
    rules = Rules(Protocol(**options), takes)
    fake = Fake(answer)
    places = prompts.chosen(source, rules.protocol.images, rules.protocol.seeds[0])
    return list(prompts.measure(fake, source, places, rules, progress=False)), fake.asked


def ious(found, column: str, seed: int = 0) -> list[float]:
    return [each[column][seed].iou for picture in found for each in picture.scores]


def test_an_oracle_scores_one_from_boxes_and_from_points():
    source = Pictures([THREE, LINE, THREE[:1]])
    clicks = ("uniform", "centre", "random_first")
    found, _ = run(source, under, clicks=clicks, points=(1, 5), seeds=(0, 4))
    for column in found[0].scores[0]:
        assert ious(found, column) == [1] * 5, column
    # A mask that was found needs no further click.
    assert {len(each["centre_5"]) for each in found[0].scores} == {1}
    assert {len(each["uniform_5"]) for each in found[0].scores} == {2}


def test_filling_the_box_scores_the_baseline():
    found, _ = run(Pictures([THREE]), filled)
    fill = [target.fill for target in found[0].scene.targets]
    assert ious(found, "box") == pytest.approx(fill, abs=1e-12)
    assert fill == pytest.approx([mask.sum() / box_area(mask) for mask in THREE], abs=1e-12)
    assert ious(found, "uniform_1") == [0, 0, 0]


def box_area(mask: np.ndarray) -> int:
    rows, columns = np.nonzero(mask)
    return int((np.ptp(rows) + 1) * (np.ptp(columns) + 1))


def nibbled(masks, query) -> np.ndarray:
    """The mask without its top row of pixels for each foreground point that is missing to three,
    and with the row below it until there is a background point."""
    mask, labels = masks[query.mask].copy(), query.prompt.labels
    rows = np.flatnonzero(mask.any(1))
    mask[rows[0] : rows[0] + max(0, 3 - int((labels == 1).sum()))] = False
    if not (labels == 0).any():
        mask[rows[-1] + 1 : rows[-1] + 3] = True
    return mask


@pytest.mark.parametrize("way", ["centre", "random_first"])
def test_clicks_follow_on_what_is_wrong(way):
    found, asked = run(
        Pictures([THREE[:1]]), nibbled, boxes="none", clicks=(way,), points=(1, 4), feed_back=True
    )
    mask = THREE[0]
    assert [len(each.prompt.points) for each in asked] == [1, 2, 3, 4]
    first = asked[0].prompt.points[0].astype(int)
    assert mask[first[1], first[0]]
    # 64 pixels are too much, then there are rows of the mask that are missing.
    assert asked[-1].prompt.labels.tolist() == [1, 0, 1, 1]
    below = asked[1].prompt.points[1].astype(int)
    assert not mask[below[1], below[0]] and below[1] > 12
    for query in asked[2:]:
        x, y = query.prompt.points[-1].astype(int)
        assert mask[y, x] and y <= 5
    # Each has the points before it, and the logits of the answer before.
    for before, after in itertools.pairwise(asked):
        assert np.array_equal(after.prompt.points[:-1], before.prompt.points)
    assert [None if q.prompt.mask is None else q.prompt.mask[0, 0] for q in asked] == [
        None,
        1,
        2,
        3,
    ]
    assert [query.single for query in asked] == [False, True, True, True]
    assert ious(found, f"{way}_4") == [1] and ious(found, f"{way}_1")[0] < 0.7


def test_what_a_model_cannot_take_is_left_out_and_said():
    _, asked = run(
        Pictures([THREE[:1]]), nibbled, LITTLE, boxes="none", clicks=("centre",), points=(5,)
    )
    labels = np.concatenate([query.prompt.labels for query in asked])
    assert len(asked) == 5 and (labels == 1).all()
    assert not any(query.single for query in asked)
    mask = THREE[0]
    assert all(mask[int(y), int(x)] for query in asked for x, y in query.prompt.points)
    protocol = Protocol(points=(5,), clicks=("centre",))
    text = protocol.words(LITTLE, "all")
    assert "takes no background points" in text and "the best of the candidates" in text
    assert "larger of what is missing and too much" in protocol.words(ALL, "all")
    assert "logits >= 0" in text and "logits > 0" in protocol.words(ALL, "all")
    with pytest.raises(ConfigError, match="points has 9, but this checkpoint takes 6 at most"):
        Protocol(points=(1, 9)).require(LITTLE)
    with pytest.raises(ConfigError, match="never learned mask prompts"):
        Protocol(clicks=("centre",), feed_back=True).require(LITTLE)
    with pytest.raises(ConfigError, match="never learned the single mask"):
        Protocol(several="single").require(LITTLE)
    Protocol(points=(9,), clicks=("centre",), feed_back=True, several="single").require(ALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "different integers"),
        ({"seeds": (1, 1)}, "different integers"),
        ({"seeds": (-1,)}, "different integers"),
        ({"points": (0,)}, "numbers of clicks from 1"),
        ({"clicks": ("centre", "centre")}, "each way counts once"),
        ({"images": 0}, "images is 0"),
        ({"masks_per_image": 0}, "masks_per_image is 0"),
        ({"min_area_px": 0}, "a mask has pixels"),
        ({"boxes": "none", "points": ()}, "nothing is measured"),
        ({"feed_back": True}, "do not follow an answer"),
    ],
)
def test_a_protocol_that_is_none_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**options)


def test_boxes_alone():
    for options in ({"points": ()}, {"clicks": ()}, {"points": (), "clicks": ("centre",)}):
        protocol = Protocol(**options)
        assert protocol.columns == ("box",) and protocol.most == 0
        protocol.require(LITTLE)
        found, asked = run(Pictures([THREE]), under, **options)
        assert ious(found, "box") == [1] * 3 and len(asked) == 3
        assert "point" not in protocol.words(LITTLE, "all").split("for each mask")[1].split(";")[0]


def test_tiny_masks_are_left_out():
    found, _ = run(Pictures([np.concatenate([DOT, THREE])]), under)
    assert len(found[0].scores) == 3
    found, _ = run(Pictures([np.concatenate([DOT, THREE])]), under, min_area_px=15)
    assert len(found[0].scores) == 4
    assert [each.scores for each in run(Pictures([DOT, DOT]), under)[0]] == [[], []]


@pytest.mark.parametrize(
    ("area", "size"),
    [(1, "small"), (1024, "small"), (1025, "medium"), (9216, "medium"), (9217, "large")],
)
def test_sizes_are_those_of_coco(area: int, size: str):
    assert size_of(area) == size


def test_given_boxes_are_those_of_the_annotations_and_objects_without_are_named():
    boxes = [(1.0, 2.0, 14.5, 13.0), None, (500.0, 2.0, 510.0, 13.0)]
    found, asked = run(Pictures([THREE], boxes), filled, boxes="given", clicks=())
    assert [query.prompt.box.tolist() for query in asked] == [[1, 2, 14.5, 13]]
    assert [target.about.identity for target in found[0].scene.targets] == ["object 0"]
    noted = sorted(each.text for each in found[0].findings)
    assert {each.kind for each in found[0].findings} == {"objects_left_out"}
    assert "object 1: bbox is missing" in noted[0] and "object 2: box is" in noted[1]


def test_seeds_draw_clicks_and_the_first_one_pictures_and_masks():
    source = Pictures([THREE] * 7)
    options = {"images": 4, "masks_per_image": 2}
    found, _ = run(source, under, **options)
    assert sum(len(each.scores) for each in found) == 8
    words = Protocol(**options).words(ALL, prompts.pictures_in_words(source, Protocol(**options)))
    assert words.startswith("4 of 7 pictures and up to 2 masks of each, drawn with seed 0;")

    def asked(seeds):
        queries = run(source, under, seeds=seeds, boxes="none", **options)[1]
        return [(query.mask, *query.prompt.points[0]) for query in queries]

    both = asked((0, 1))
    assert both[::2] == asked((0,)) and both[1::2] != both[::2]
    assert [mask for mask, *_ in both[::2]] == [mask for mask, *_ in both[1::2]]
    assert prompts.chosen(source, 4, 0) != prompts.chosen(source, 4, 1)


def test_the_draws_follow_names_and_not_places():
    record = Pictures([THREE]).read(0)
    turned = Record(record.name, record.picture, {"masks": _Turned(THREE)})
    options = {"most": 2, "seed": 3, "min_area_px": 16, "given": False}
    one, other = (targets.of(each, **options) for each in (record, turned))
    assert {t.about.identity for t in one.targets} == {t.about.identity for t in other.targets}
    clicks = [
        {t.about.identity: t.generator(5).integers(1 << 30) for t in scene.targets}
        for scene in (one, other)
    ]
    assert clicks[0] == clicks[1] and len(set(clicks[0].values())) == 2


class _Turned(Masks):
    """The same objects from the last to the first."""

    def describe(self, index: int) -> Object:
        return super().describe(len(self) - 1 - index)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        return super().sample(len(self) - 1 - index, grid)


def test_a_source_without_masks_is_an_error():
    with pytest.raises(ConfigError, match="picture 1 comes from a source without masks"):
        run(Pictures([THREE, None]), under)


def test_a_broken_mask_costs_itself_and_a_picture_only_where_no_other_is_left():
    source = Pictures([np.concatenate([THREE, NOTHING]), np.repeat(NOTHING, 2, 0), LINE])
    found, _ = run(source, under)
    assert [len(each.scores) for each in found] == [3, 0, 1]
    assert ious(found, "box") == [1] * 4
    lost = "picture 1: 2 of 2 objects cannot be used, the first: mask "
    assert next(each.broken for each in found if each.broken).startswith(lost)
    assert [each.text for each in found[0].findings] == ["mask 3 is broken"]


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_run_that_can_measure_nothing_continues(monkeypatch):
    mesh = sharding.make_mesh(MeshConfig(data=1))
    sam = nano.sam("efficientsam_nano")
    monkeypatch.setattr(prompts.sources, "open_source", lambda *_: Pictures([NOTHING]))
    config = EvaluateConfig(source=ScenesConfig())
    with pytest.warns(UserWarning, match="1 broken picture left out"):
        nothing = prompts.measurement(sam.model, config, mesh)(sam.params)
    assert (nothing["masks"], nothing["skipped"]) == (0, 1) and "box_miou" not in nothing


def test_a_line_has_a_box_one_pixel_thick():
    scene = targets.of(Pictures([LINE]).read(0), most=None, seed=0, min_area_px=1, given=False)
    assert scene.targets[0].box(given=False).box.tolist() == [4, 3, 23, 4]
    assert isinstance(scene.targets[0].box(given=False), Prompt)


def test_the_nano_model_on_scenes():
    source = sources.open_source(ScenesConfig(split="heldout"))
    config = EvaluateConfig(source=ScenesConfig(split="heldout"), images=5, masks_per_image=3)
    sam, mesh = nano.sam("efficientsam_nano"), sharding.make_mesh(MeshConfig(data=1))
    first = prompts.measurement(sam.model, config, mesh)(sam.params)
    assert first == prompts.measurement(sam.model, config, mesh)(sam.params)
    assert 0 <= first["point_miou"] <= 1 and 0.3 < first["fill_box"] < 1
    assert "logits >= 0" in first["protocol"] and len(source) == 20_000
