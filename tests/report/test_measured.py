"""Charts of an evaluation hold its numbers."""

import re
from pathlib import Path

from esam_jax.report import measured


def row(prompt: str, points: int, miou: float, mask: str = "confident", size: str = "all") -> dict:
    return {"prompt": prompt, "points": points, "miou": miou, "mask": mask, "size": size}


NUMBERS = [
    row("box", 0, 0.8),
    row("box", 0, 0.9, "oracle"),
    row("centre", 1, 0.5),
    row("centre", 1, 0.2, size="small"),
    row("centre", 3, 0.6),
    row("centre", 1, 0.7, "oracle"),
    row("centre", 3, 0.8, "oracle"),
]


def curves(file: Path) -> list[str]:
    return re.findall(r"<polyline[^>]*points=\"([^\"]*)\"", file.read_text())


def test_a_curve_for_each_way_and_the_box(tmp_path: Path):
    objects = tmp_path / "objects.csv"
    objects.write_text(
        "data,picture,object,area,size,fill_box,box,box:oracle,centre_1,centre_3:seed0\n"
        "d,p,1,9,small,0.5,0.25,0.3,0.5,1.0\nd,p,2,9,small,0.5,0.8,0.8,0.5,0.1\n"
    )
    measured.write(tmp_path, NUMBERS, objects)
    clicks, spread = tmp_path / "clicks.svg", tmp_path / "ious.svg"
    assert ">centre<" in clicks.read_text() and ">centre, oracle<" in clicks.read_text()
    assert "stroke-dasharray" in clicks.read_text() and ">clicks<" in clicks.read_text()
    assert len(curves(clicks)) == 3
    assert all(f">{name}<" in spread.read_text() for name in ("box", "centre 1", "centre 3"))
    # Both objects reach what is up to 0.25 for the box, one up to 0.8 itself, none more.
    heights = [float(place.split(",")[1]) for place in curves(spread)[0].split()]
    assert len(heights) == 51 and len(set(heights)) == 3
    assert [heights.count(height) for height in sorted(set(heights))] == [13, 28, 10]


def test_oracles_are_left_out_beside_several_ways(tmp_path: Path):
    objects = tmp_path / "objects.csv"
    objects.write_text("data,picture,object,area,size,fill_box\n")
    more = [row("uniform", n, 0.4, mask) for n in (1, 3) for mask in ("confident", "oracle")]
    measured.write(tmp_path, [*NUMBERS, *more], objects)
    assert len(curves(tmp_path / "clicks.svg")) == 3  # two ways and the box
    assert "oracle" not in (tmp_path / "clicks.svg").read_text()
    assert not (tmp_path / "ious.svg").exists()


def test_one_number_of_clicks_is_no_curve(tmp_path: Path):
    objects = tmp_path / "objects.csv"
    objects.write_text("data,picture,object,area,size,fill_box,box\nd,p,1,9,small,0.5,0.25\n")
    measured.write(tmp_path, NUMBERS[:3], objects)
    assert not (tmp_path / "clicks.svg").exists() and (tmp_path / "ious.svg").exists()
