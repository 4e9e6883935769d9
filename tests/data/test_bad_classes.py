"""Pictures and classes that cannot be used: left out and counted, or an error by name.

One table for a run, for the measurement of a classifier and for a probe.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import nano, tfds_sets
from PIL import Image

from esam_jax import configs
from esam_jax.config import ClassifierConfig, SourceConfig
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import sources
from esam_jax.data.examples import Examples
from esam_jax.errors import ConfigError, DataError, EsamError
from esam_jax.evaluate import class_scores, feature_probes
from esam_jax.models import named
from esam_jax.train import start

NETWORK = ClassifierConfig(
    encoder=dataclasses.replace(
        timm_vit.pretrained(named.sam("efficientsam_nano").encoder),
        depth=1,
        pretrain_px=32,
        image_px=32,
    ),
    classes=2,
    pool="mean",
    class_names=("ants", "bees"),
)
# What each says: the pictures that are used, and words of a reason or of the error.
Outcome = tuple[int | type[EsamError], str]


def pictures(root: Path, **counts: int) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir()
        for i in range(count):
            pixels = np.random.default_rng((number, i)).integers(0, 256, (70, 80, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def empty_folder(root: Path) -> SourceConfig:
    return sources.detect(str(pictures(root, ants=3, bees=3, cats=0)))


def single_class(root: Path) -> SourceConfig:
    return sources.detect(str(pictures(root, ants=3)))


def unknown_class(root: Path) -> SourceConfig:
    return sources.detect(str(pictures(root, aardvarks=1, ants=3, bees=3)))


def unreadable(root: Path) -> SourceConfig:
    pictures(root, ants=3, bees=3)
    (root / "ants" / "broken.png").write_bytes(b"nothing")
    (root / "bees" / "short.png").write_bytes((root / "bees" / "0.png").read_bytes()[:60])
    return sources.detect(str(root))


def nothing_readable(root: Path) -> SourceConfig:
    pictures(root, ants=1, bees=1)
    for path in root.rglob("*.png"):
        path.write_bytes(b"nothing")
    return sources.detect(str(root))


def no_pictures(root: Path) -> SourceConfig:
    return sources.detect(str(pictures(root, ants=0, bees=0)))


def out_of_range(root: Path) -> SourceConfig:
    """A prepared data set of three classes, two of which its features name."""
    folder = tfds_sets.classes(root, count=6)
    (folder / "label.labels.txt").write_text("ants\nbees\n")
    file = folder / "features.json"
    file.write_text(file.read_text().replace('"numClasses": "3"', '"numClasses": "2"'))
    return sources.detect(str(folder))


ONE = "one class alone, ants, and nothing can be told apart"
TABLE: dict[Callable[[Path], SourceConfig], tuple[Outcome, Outcome, Outcome]] = {
    # of a run, of a classifier that is measured, of a probe that learns from it
    empty_folder: ((6, "without a picture: cats"),) * 3,
    single_class: ((ConfigError, ONE), (3, ""), (ConfigError, ONE)),
    unknown_class: (
        (ConfigError, "data has 3 (aardvarks, ants, bees): write --data.view.classes 3"),
        (6, "1 picture left out, of classes that the model does not have: aardvarks"),
        (7, ""),
    ),
    unreadable: ((6, "broken.png"),) * 3,
    nothing_readable: ((0, "0.png"), (DataError, "none of 2 pictures"), (DataError, "none of 2")),
    no_pictures: ((DataError, "holds no .jpg"),) * 3,
    out_of_range: ((4, "its label is 2"),) * 3,
}


def run_on(data: SourceConfig, folder: Path) -> tuple[int, list[str]]:
    """As a run begins: what each record becomes."""
    cfg = configs.load("classify_nano")
    classes = 3 if folder.name.startswith("empty") else 2
    view = dataclasses.replace(cfg.data.view, classes=classes)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, source=data, view=view))
    cfg, source = start.fitted(cfg, folder)
    assert source is not None
    examples = Examples(source, cfg.data.view, seed=0)
    attempts = [examples[i].attempts[0] for i in range(len(source))]
    return sum(x.status == "usable" for x in attempts), [x.reason for x in attempts]


def measured_on(data: SourceConfig, folder: Path) -> tuple[int, list[str]]:
    file = ModelFile(config=NETWORK, params=nano.params(NETWORK), source="a test")
    found = class_scores.of_model(file, data, 100, progress=False)
    return found["images"], found.get("reasons", [])


def probed_on(data: SourceConfig, folder: Path) -> tuple[int, list[str]]:
    file = ModelFile(config=NETWORK, params=nano.params(NETWORK), source="a test")
    found = feature_probes.evaluate(file, data, data, "knn", progress=False)
    assert found["images"] == found["train_images"]
    return found["train_images"], found.get("reasons", [])


@pytest.mark.parametrize("use", [run_on, measured_on, probed_on])
@pytest.mark.parametrize("make", TABLE)
def test_what_cannot_be_used(tmp_path, make, use):
    folder = tmp_path / make.__name__
    folder.mkdir()
    wanted, words = TABLE[make][[run_on, measured_on, probed_on].index(use)]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if isinstance(wanted, type):
            with pytest.raises(wanted) as error:
                use(make(folder), folder)
            assert words in str(error.value)
            return
        used, reasons = use(make(folder), folder)
    said = " ".join([*reasons, *(str(each.message) for each in warned)])
    assert used == wanted and words in said
