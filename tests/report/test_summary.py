"""The page about a run: finished, under way, killed in the middle of a line, or hostile."""

import html.parser
import json

import pytest

from esam_jax.cli import main
from esam_jax.errors import MissingError
from esam_jax.report import page, summary
from esam_jax.runs import metrics_file


def lines_of_a_run():
    """Killed after step 30, resumed from step 20, measured, finished."""
    speed = {"examples_per_second": 10.0, "data_wait_share": 0.1, "compute_share": 0.9}

    def begin(step, time):
        known = {"versions": {"jax": "0.0.1"}, "host": "alpha", "mesh": {"data": 2}}
        return {"step": step, "event": "start", "time": time, "batch": 10, "seconds": 0.0, **known}

    def update(step, seconds, **more):
        return {"step": step, "loss": 30.0 / step, "grad_norm": 1.0, "seconds": seconds, **more}

    return [
        begin(0, 1000.0),
        {"step": 1, "event": "compile", "took": 5.0, "cache": "miss", "seconds": 8.0},
        update(1, 9.0),
        update(10, 18.0, **speed, broken=1, broken_names=["<b>.jpg"]),
        update(20, 28.0, **speed),
        {"step": 20, "event": "save", "took": 1.0, "seconds": 29.0},
        {"step": 20, "event": "redone", "steps": 10, "took": 10.0, "useful": 0.0, "seconds": 39.0},
        begin(20, 1050.0),
        {"step": 25, "event": "skip", "loss_was": "nan", "seconds": 3.0},
        update(21, 2.0),
        update(30, 11.0, **speed),
        {"step": 30, "box_miou": 0.5, "point_miou": 0.25, "seconds": 12.0},
        {"step": 30, "finished": True, "goodput": 0.5, "seconds": 13.0},
    ]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder, {"name": "<toy>", "steps": 30}, lines_of_a_run())
    return folder


class Tags(html.parser.HTMLParser):
    """Every element is closed, and nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        for name, value in attributes:
            assert name not in ("src", "href"), value
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(text):
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags


def test_summary(run):
    found = summary.summary(run)
    assert (found["step"], found["steps"], found["finished"], found["restarts"]) == (
        30,
        30,
        True,
        1,
    )
    # 39 s, then 11 s of nothing, then 13 s; 19 and 9 steps of a second, a tenth of it waiting.
    assert found["seconds"] == pytest.approx(63.0)
    assert found["goodput"] == pytest.approx(28 * 0.9 / 63, abs=1e-4)
    assert found["spent"]["redone"] == 10.0 and found["spent"]["down"] == 11.0
    assert [fault["event"] for fault in found["faults"]] == [
        "broken records", "redone", "restart", "skip",
    ]  # fmt: skip
    broken = {"event": "broken records", "count": 1, "first": ["<b>.jpg"]}
    assert found["faults"][0] == {"step": 10, "at": 1018.0, **broken}
    assert found["faults"][-1] == {"step": 25, "at": 1053.0, "event": "skip", "loss_was": "nan"}
    assert found["environment"]["versions"] == {"jax": "0.0.1"}
    assert found["metrics"]["box_miou"] == 0.5


def test_what_is_wrong_with_the_data_is_one_row_of_each_kind_and_part(tmp_path):
    """Crowds were left out because it was said so: they are no fault."""

    def line(step, **counts):
        return {"step": step, "loss": 1.0, "seconds": 1.0 * step, **counts}

    def objects(count, *names):
        reasons = {"objects_left_out": [f"{name}: bad" for name in names]}
        return {"objects_left_out": count, "left_out_reasons": reasons}

    lines = [
        {"step": 0, "event": "start", "time": 100.0, "seconds": 0.0},
        line(1, crowds_left_out=40, left_out_reasons={"crowds_left_out": ["c is a crowd"]}),
        line(2, **objects(2, "a", "b"), crowds_used=1, pictures_of_crowds_left_out=1),
        line(3, broken=1, broken_names=["x.jpg"], broken_reasons=["cut short"]),
        line(4, **objects(9, *"cdefghi")),
        {"step": 4, "event": "start", "time": 200.0, "seconds": 0.0},
        line(5, **objects(1, "z")),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    first, broken, _, again = summary.summary(tmp_path)["faults"]
    five = [f"{name}: bad" for name in "abcde"]
    assert first == {
        "step": 2, "at": 102.0, "event": "objects left out", "count": 9, "first": five,
    }  # fmt: skip
    assert (broken["count"], broken["first"]) == (1, ["x.jpg: cut short"])
    assert (again["event"], again["count"], again["first"]) == ("objects left out", 1, ["z: bad"])


@pytest.mark.parametrize("ema", [None, 0.9999])
def test_the_page_says_whether_weights_are_averaged(tmp_path, ema):
    """Runs of earlier releases have no such key."""
    for config in ({"optim": {"ema": ema}}, *([{}] if ema is None else [])):
        write(tmp_path, {"name": "toy", "steps": 30, **config}, lines_of_a_run())
        found = summary.summary(tmp_path)
        assert found["ema"] == ema
        said = "Evaluations and model/ are of averaged weights (optim.ema 0.9999); losses"
        assert (said in page.render(found, {})) == (ema is not None)


def test_page_is_whole_and_escaped(run):
    assert main(["report", str(run)]) == 0
    text = (run / "report.html").read_text()
    tags = parsed(text)
    # Loss, gradient, rate, shares of time, evaluation.
    assert tags.seen.count("svg") == 5
    assert "<toy>" in tags.text and "<toy>" not in text
    assert "<b>.jpg" not in text and "&lt;b&gt;.jpg" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    for part in ("goodput", "box mIoU", "restart", "0.0.1", "alpha"):
        assert part in text
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def stopped_early(best):
    """Of fifty updates 35 were done, the last of which has no line."""
    *lines, _ = lines_of_a_run()
    why = metrics_file.why_earlier(best, "miou")
    lines.append({"step": 35, "event": "early_stop", "best": best, "seconds": 12.5})
    lines.append({"step": 35, "event": "earlier_model", "best": best, "why": why, "seconds": 12.7})
    return [*lines, {"step": 35, "finished": True, "seconds": 13.0}]


@pytest.mark.parametrize(
    ("best", "words"),
    [(0, "no evaluation was better than the start"), (20, "model/ is of step 20")],
)
def test_a_run_that_ended_early_says_which_model_it_left(best, words, tmp_path):
    write(tmp_path, {"name": "toy", "steps": 50}, stopped_early(best))
    found = summary.summary(tmp_path)
    text = " ".join(parsed(page.render(found, summary.curves(tmp_path))).text)
    assert "finished early, as evaluations no longer improved, step 35 of 50" in text
    assert words in text
    assert not {"early_stop", "earlier_model"} & {fault["event"] for fault in found["faults"]}
    # With more patience it continued, and was killed.
    more = {"step": 40, "loss": 1.0, "seconds": 20.0}
    write(tmp_path, {"name": "toy", "steps": 50}, [*stopped_early(best), more])
    text = " ".join(parsed(page.render(summary.summary(tmp_path), {})).text)
    assert "not finished, step 40 of 50" in text and words not in text


def write(folder, config, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps(config))


def test_json_and_out(run, tmp_path, capsys):
    assert main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(summary.summary(run)))
    assert not (run / "report.html").exists()
    assert main(["report", str(run), "--out", str(tmp_path / "pages" / "a.html")]) == 0
    assert "finished, step 30 of 30" in capsys.readouterr().out
    parsed((tmp_path / "pages" / "a.html").read_text())


def test_every_beginning_of_a_run_has_a_page(run):
    """Cut anywhere, as a kill or a copy would: also within a line, and without a config."""
    (run / "config.json").unlink()
    whole = (run / "metrics.jsonl").read_text()
    first = whole.index("\n") + 1
    for end in range(first, len(whole), 97):
        (run / "metrics.jsonl").write_text(whole[:end])
        found = summary.summary(run)
        parsed(page.render(found, summary.curves(run)))
        assert 0 <= found["goodput"] <= 1


def test_no_run(tmp_path, capsys):
    with pytest.raises(MissingError, match="name the --workdir of a run"):
        summary.summary(tmp_path)
    assert main(["report", str(tmp_path / "absent")]) == 2
    assert "holds no run with a metrics.jsonl" in capsys.readouterr().err


def test_durations():
    wanted = {3.14159: "3.14 s", 99: "99 s", 114: "1 min 54 s", 720: "12 min"}
    wanted |= {11_100: "3 h 05 min", 187_200: "2 d 4 h"}
    assert {seconds: page.duration(seconds) for seconds in wanted} == wanted


@pytest.mark.parametrize(
    ("events", "restarts"),
    [
        ("start loss", 0),
        ("start loss start loss start", 2),
        ("start loss redone start preflight rollback loss", 0),  # in the same process
        ("start loss redone start config_change rollback loss start loss", 1),
        ("start start rollback", 0),
        ("start loss finished start loss finished", 0),  # it was lengthened
        ("start loss finished start loss start loss finished", 1),  # and killed then
        ("attempt start loss attempt start loss", 1),
        ("attempt attempt start loss", 1),  # killed before its log opened
        ("attempt start loss attempt attempt attempt start loss finished", 3),
        ("attempt start loss redone start rollback loss attempt start", 1),
        ("attempt start loss finished attempt attempt start loss finished", 1),
        ("start loss attempt start loss", 1),  # begun by an earlier release
    ],
)
def test_restarts_are_those_of_runs_that_ended_before_their_time(tmp_path, events, restarts):
    def line(step, kind):
        if kind in ("loss", "finished"):
            return {"step": step, kind: 0.5 if kind == "loss" else True}
        return {"step": step, "event": kind, "time": 1e9 + step}

    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(line(n, kind)) + "\n" for n, kind in enumerate(events.split()))
    )
    found = summary.summary(tmp_path)
    assert found["restarts"] == restarts
    assert [each["event"] for each in found["faults"]].count("restart") == restarts
