"""Every code block of README.md and docs/ runs, in the order of its page, or says why it does not.

Blocks of a page share a folder and their names, as a reader would have them. Commands run in this
process. What takes hours is cut short: `esam train` checks its config and leaves a small model,
grids of clicks are coarse, and named networks are of the smallest size.
"""

import json
import linecache
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import documents, nano, weight_files
from helpers.documents import Block
from PIL import Image

from esam_jax import cli
from esam_jax.convert import model_folder
from esam_jax.data import sources
from esam_jax.evaluate import golden
from esam_jax.models import named
from esam_jax.ops import regions
from esam_jax.train import loop

# What stands for something of the reader's own, or for a network that takes long to compile.
STANDS_FOR = {
    "MODEL": "quickstart_clicks",
    "random:efficientsam_ti": "random:efficientsam_nano",
    "random:sam_b": "random:sam_nano",
}
CUT_SHORT = {
    "everything": ["--points-per-side", "4"],
    "edges": ["--points-per-side", "4"],
    "proposals": ["--points-per-side", "4"],
    "evaluate proposals --model": ["--points-per-side", "4"],
    **{f"engine {stage}": ["--points-per-side", "4"] for stage in ("assist", "semi", "auto")},
    "bench everything": ["--points-per-side", "4", "--runs", "1"],
    "bench predict": ["--parts", "encoder", "--runs", "1"],
}
LONG = {"evaluation.md", "inference.md", "training.md", "zero_shot.md"}
PAGES = [
    pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in LONG))
    for page in documents.PAGES
    if any(block.runs for block in documents.blocks(page))
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that the pages speak of; commands and blocks run in it."""
    scene = sources.open_source(sources.detect("scenes")).read(0).picture.rgb()
    (tmp_path / "pictures").mkdir()
    large = Image.fromarray(scene).resize((400, 360), Image.Resampling.NEAREST)
    large.save(tmp_path / "picture.jpg")
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(scene).save(tmp_path / "pictures" / name)
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        tar.add(tmp_path / "pictures", "pictures")
    found = [{"image_id": "a.jpg", "bbox": [3, 4, 30, 40], "score": 0.5, "category_id": 1}]
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    detected = [{"image_id": 1, "bbox": [19, 11, 31, 30], "score": 0.5, "category_id": 1}]
    (tmp_path / "detections.json").write_text(json.dumps(detected))
    (tmp_path / "points.csv").write_text("file,x,y\na.jpg,20,30\nb.jpg,10,11\n")
    for name in ("train", "val"):
        write_instances(tmp_path, name, scene)
    for name in ("quickstart/segment", "segment_ti"):
        model(tmp_path / "runs" / name)
    small = weight_files.torch_file(golden.state_dict("efficientsam_small_test"))
    (tmp_path / "efficient_sam_vitt.pt").write_bytes(small)
    with zipfile.ZipFile(tmp_path / "efficient_sam_vits.pt.zip", "w") as file:
        file.writestr("efficient_sam_vits.pt", small)
    sam = weight_files.torch_file(golden.state_dict("sam_small_test"))
    (tmp_path / "sam_vit_h_4b8939.pth").write_bytes(sam)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "run", lambda cfg, workdir, **options: model(workdir) or {})
    return tmp_path


def model(run: Path) -> None:
    """Leaves the smallest model and a loss in a run folder, as a finished run does."""
    config = named.sam("efficientsam_nano")
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 4, "loss": 0.5, "finished": True}))
    if not (run / "model").exists():
        model_folder.write(run / "model", config, nano.params(config), source="test")


def write_instances(folder: Path, name: str, image: np.ndarray) -> None:
    """COCO's instances_NAME.json of one picture with one square, which lies in NAME/."""
    (folder / name).mkdir()
    Image.fromarray(image).save(folder / name / "c.png")
    mask = np.zeros(image.shape[:2], bool)
    mask[10:40, 20:50] = True
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 900}
    annotation |= {"bbox": [20, 10, 30, 30], "segmentation": regions.to_runs(mask)}
    picture = {"id": 1, "file_name": "c.png", "height": mask.shape[0], "width": mask.shape[1]}
    text = json.dumps(
        {
            "images": [picture],
            "annotations": [annotation],
            "categories": [{"id": 1, "name": "thing"}],
        }
    )
    (folder / f"instances_{name}.json").write_text(text)


def run(block: Block, names: dict) -> None:
    if block.language == "python":
        # With its own lines in tracebacks.
        linecache.cache[str(block)] = (len(block.text), None, block.text.splitlines(True), "")
        exec(compile(block.text, str(block), "exec"), names)
        return
    for words in documents.commands(block):
        program, *argv = (STANDS_FOR.get(word, word) for word in words)
        assert program == "esam", f"{block}: only esam runs here, mark what runs {program}"
        begins = (" ".join(argv[:count]) for count in (1, 2, 3))
        cut = next((CUT_SHORT[each] for each in begins if each in CUT_SHORT), [])
        assert cli.main([*argv, *cut]) == 0, f"{block}: {words}"


def run_page(page: Path) -> None:
    names: dict = {"__name__": "__main__"}
    with warnings.catch_warnings():
        # A picture's quality and a model without licence are the reader's business.
        warnings.simplefilter("ignore")
        for block in documents.blocks(page):
            if block.runs:
                run(block, names)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_in_their_order(page, folder):
    run_page(page)


@pytest.mark.parametrize("page", documents.PAGES, ids=lambda page: page.name)
def test_every_block_has_a_language_and_bash_runs_esam_alone(page):
    for block in documents.blocks(page):
        assert block.language, f"{block}: name its language, text for what is printed"
        if block.language == "bash" and block.runs:
            programs = {words[0] for words in documents.commands(block)}
            assert programs == {"esam"}, f"{block}: mark why {programs} cannot run in a test"


def page_of(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text)
    return page


BLOCK = "```{}\n{}\n```\n"


def test_a_block_that_fails_is_found(tmp_path, folder):
    one, two = BLOCK.format("python", "x = 1"), BLOCK.format("python", "assert x == 2")
    with pytest.raises(AssertionError):
        run_page(page_of(tmp_path, one + "\ntext\n" + two))
    with pytest.raises(AssertionError, match=r"page\.md:1"):
        run_page(page_of(tmp_path, BLOCK.format("bash", "esam segmnt picture.jpg")))
    with pytest.raises(AssertionError, match="only esam runs here"):
        run_page(page_of(tmp_path, BLOCK.format("bash", "rm -rf /nowhere")))


def test_marks_need_a_reason_and_hold_for_the_next_block_alone(tmp_path):
    block = BLOCK.format("python", "1 / 0")
    text = f"<!-- not run: needs a GPU -->\n{block}\n{block}<!-- not run: -->\n{block}"
    found = [each.runs for each in documents.blocks(page_of(tmp_path, text))]
    assert found == [False, True, True]
    (printed,) = documents.blocks(page_of(tmp_path, BLOCK.format("text", "1 / 0")))
    assert not printed.runs


def test_commands_may_go_over_lines_and_have_comments(tmp_path):
    text = BLOCK.format("bash", "# a\nesam a \\\n  --b 'c d'   # e\n\nesam f")
    (block,) = documents.blocks(page_of(tmp_path, text))
    assert list(documents.commands(block)) == [["esam", "a", "--b", "c d"], ["esam", "f"]]
    with pytest.raises(AssertionError, match="does not end"):
        list(documents.blocks(page_of(tmp_path, "```bash\nx\n")))
