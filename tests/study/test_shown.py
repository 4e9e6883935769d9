"""What people see of a study: Markdown, charts, the page."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from helpers import study_results

from esam_jax.study import gathered, shown
from esam_jax.study.design import Design

DESIGN = Design(arms=("sami", "mae", "scratch"), seeds=(0, 1, 2), labelled=(16, 64), classified=50)
TABLE = gathered.table(study_results.study(DESIGN), DESIGN)
ONE = Design(arms=("sami", "scratch"), seeds=(0,))


def test_markdown_has_every_mean_and_difference():
    text = shown.markdown(TABLE)
    for row in TABLE["rows"]:
        assert gathered.interval(row).words() in text
        if row["difference"]:
            assert gathered.interval(row["difference"]).words(signed=True) in text
    assert "| SAMI | 500 | 32 | 0.002 | 1.00 |" in text
    assert "| box, prompted steps | 40 | 80 | 160 | 320 | 640 |" in text
    assert "above every other arm in every cell" in text and "3 seeds" in text
    widths = {line.count("|") for line in text.split("\n\n")[2].splitlines()}
    assert len(widths) == 1  # a rectangle


def test_steps_to_reach_are_said_with_their_limits():
    lines = shown.reached(TABLE)
    assert any("box: steps of MAE that reach SAMI after 40: 189" in line for line in lines)
    assert any("scratch" in line and "40: more than 640" in line for line in lines)


def test_one_seed_claims_nothing():
    text = shown.markdown(gathered.table(study_results.study(ONE), ONE))
    assert "nothing follows from it about others" in text
    assert "above every other" not in text and "±" not in text


@pytest.mark.parametrize("arms", [("sami",), ("mae", "scratch")])
def test_nothing_is_said_of_sami_where_it_stands_beside_none(arms: tuple[str, ...]):
    design = Design(arms=arms, seeds=(0, 1))
    text = shown.markdown(gathered.table(study_results.study(design), design))
    assert "above every other" not in text and "2 seeds" in text


def test_what_cannot_be_told_is_said_so():
    rows = [dict(row) for row in TABLE["rows"]]
    for row in rows:
        if row["arm"] == "mae" and row["cell"] == "prompted_640":
            high = 0.01 if row["measure"] == "box_miou" else 0.03
            row["difference"] = {"mean": high - 0.02, "low": high - 0.02, "high": high, "seeds": 3}
    said = shown.not_held({**TABLE, "rows": rows})
    assert "cannot be told from SAMI: MAE in 640 prompted steps (box)" in said
    assert "is above SAMI: MAE in 640 prompted steps (one point)" in said


@pytest.mark.parametrize("name", ["prompted_box.svg", "prompted_point_by_tflop.svg"])
def test_charts_have_a_curve_a_band_and_a_name_for_each_arm(name: str):
    drawn = shown.curves(TABLE)[name]
    ElementTree.fromstring(drawn)
    assert drawn.count('<polyline fill="none"') == 3 and drawn.count("<polygon") == 3
    assert "teacher" in drawn and 'class="reference"' in drawn
    assert all(f">{arm}</text>" in drawn for arm in ("SAMI", "MAE", "scratch"))


def test_there_is_a_chart_for_every_curve():
    names = {*shown.curves(TABLE)}
    assert names == {
        *("prompted_box.svg", "prompted_point.svg", "labelled_box.svg", "labelled_point.svg"),
        *("prompted_box_by_tflop.svg", "prompted_point_by_tflop.svg"),
    }


def test_steps_double_by_equal_distances():
    """On a logarithmic axis, with a mark at every number of steps."""
    drawn = shown.curves(TABLE)["prompted_box.svg"]
    path = re.findall(r'<polyline fill="none" [^>]*points="([^"]+)"', drawn)[0]
    xs = [float(point.split(",")[0]) for point in path.split()]
    steps = [right - left for left, right in itertools.pairwise(xs)]
    assert max(steps) - min(steps) < 0.3
    assert all(f">{n}</text>" in drawn for n in (40, 80, 160, 320, 640))


def test_the_page_stands_alone_and_has_everything():
    drawn = shown.curves(TABLE)
    page = shown.document(TABLE, drawn)
    assert page.count('class="chart"') == len(drawn)
    for row in TABLE["rows"]:
        assert gathered.interval(row).words() in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "procedural scenes" in page and "seeds 0, 1, 2" in page
    hostile = {**TABLE, "design": {**TABLE["design"], "data": "<script>x</script>"}}
    assert "<script>" not in shown.document(hostile, drawn)
