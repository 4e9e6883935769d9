"""`esam evaluate edges` scores a folder of anybody's maps."""

import json

import numpy as np
import pytest
from PIL import Image

from esam_jax import cli


@pytest.fixture
def data(tmp_path):
    """Two pictures; everybody drew one line, and the maps have it, and another one."""
    for name in ("images", "gt", "maps"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        drawn = np.zeros((3, 40, 50), bool)
        drawn[:, 20, 5:45] = True
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / f"images/{name}.png")
        regions = np.ones(drawn.shape, np.uint16)
        np.savez(tmp_path / f"gt/{name}.npz", boundaries=drawn, segmentation=regions)
        edges = np.zeros((40, 50), np.uint8)
        edges[20, 5:45], edges[5, 5:45] = 200, 100
        Image.fromarray(edges).save(tmp_path / f"maps/{name}.png")
    return tmp_path


def run(data, *more):
    argv = ["evaluate", "edges", "--edges", data / "maps", "--truth", data, "--workers", 1, *more]
    return cli.main([*map(str, argv)])


def test_numbers_as_json(data, capsys):
    assert run(data, "--thresholds", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ODS"] == found["OIS"] == 1.0 and found["threshold"] == 0.5
    assert found["pictures"]["a.png"]["F"] == 1.0
    # At 0.25 both lines are edges, at 0.5 one of them is, at 0.75 both maps are full of it.
    assert found["recall"] == found["precision"] == 1.0


def test_numbers_for_people(data, capsys):
    assert run(data, "--thresholds", 1) == 0
    text = capsys.readouterr().out
    assert text.startswith("ODS  1.0000  (recall 1.0000, precision 1.0000, threshold 0.5000)")
    assert "2 pictures: 1 threshold, thinned, one to one within 0.0075 of the diagonal" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--thresholds", "0"], "--thresholds is 0, but must be 1 to 999"),
        (["--max-distance", "1"], "--max-distance is 1.0, but must be between 0 and 1"),
        (["--workers", "0"], "--workers is 0, but must be at least 1"),
        (["--split", "val"], "val"),
    ],
)
def test_wrong_values_are_refused_by_name(data, more, message, capsys):
    assert run(data, *more) == 2
    assert message in capsys.readouterr().err


def test_data_without_boundaries_is_refused(data, capsys):
    argv = ["evaluate", "edges", "--edges", str(data / "maps"), "--truth", str(data / "maps")]
    assert cli.main(argv) == 2
    assert "is image_folder data, which has no boundaries" in capsys.readouterr().err
