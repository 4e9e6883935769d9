"""What a command may write: the rule itself. The commands are in tests/cli/test_outputs.py."""

from pathlib import Path

import pytest

from esam_jax import outputs
from esam_jax.errors import ConfigError, EsamError, ExistsError


def snapshot(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def new_folder(folder: Path, *, own: bool = False, overwrite: bool = False, inputs=()) -> None:
    outputs.require_new_folder(folder, overwrite=overwrite, is_own=lambda found: own, inputs=inputs)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder of a person's, and one of ours."""
    here = tmp_path / "home" / "here"
    for name in ("thesis/text", "model/config.json", "photo"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    (here / "empty").mkdir()
    monkeypatch.chdir(here)
    return here


def test_a_folder_that_is_new_or_empty_is_written(here):
    for name in ("new", "new/below", "empty", "sam_v1.0", "lr1e-4"):
        new_folder(Path(name))


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_other_files_is_never_replaced(here, overwrite):
    with pytest.raises(ExistsError, match=r"thesis is not empty .* name a new folder, such as"):
        new_folder(Path("thesis"), overwrite=overwrite)


def test_a_folder_of_ours_is_replaced_when_that_is_wanted(here):
    with pytest.raises(ExistsError, match=r"holds a model already: .* --overwrite"):
        new_folder(Path("model"), own=True)
    new_folder(Path("model"), own=True, overwrite=True)


@pytest.mark.parametrize("name", [".", "", "..", "/", "../..", "../here", "new/.."])
def test_neither_the_current_folder_nor_one_above_is_replaced(here, name):
    with pytest.raises(ConfigError, match="current folder or one above it"):
        new_folder(Path(name), own=True, overwrite=True)


def test_a_file_or_a_link_is_no_folder(here):
    with pytest.raises(ExistsError, match="photo is a file, but a folder is made"):
        new_folder(Path("photo"), own=True, overwrite=True)
    Path("latest").symlink_to("model")
    with pytest.raises(ExistsError, match=r"latest is a link to .*model"):
        new_folder(Path("latest"), own=True, overwrite=True)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("model", "model"),  # itself
        ("model", "model/config.json"),  # the folder around it
        ("model/deeper", "model"),  # inside it
        ("thesis/../model", "model"),
    ],
)
def test_an_input_is_never_an_output(here, target, source, link):
    if link:
        Path("link").symlink_to(source)
        source = "link"
    with pytest.raises(ConfigError, match="an input is never replaced"):
        new_folder(Path(target), own=True, overwrite=True, inputs=[Path(source)])


def test_an_input_under_another_name_is_never_an_output(here):
    Path("hard").hardlink_to("photo")
    Path("soft").symlink_to("photo")
    for name in ("photo", "hard", "soft", "thesis/../photo"):
        with pytest.raises(ConfigError, match="is what is read"):
            outputs.require_file(Path(name), overwrite=True, inputs=[Path("photo")])


def test_a_file_is_replaced_when_that_is_wanted(here):
    outputs.require_file(Path("new"), overwrite=False)
    with pytest.raises(ExistsError, match=r"photo exists already: .* add --overwrite"):
        outputs.require_file(Path("photo"), overwrite=False)
    outputs.require_file(Path("photo"), overwrite=True)
    Path("dangling").symlink_to("nowhere")
    with pytest.raises(ExistsError, match=r"dangling exists"):
        outputs.require_file(Path("dangling"), overwrite=False)
    with pytest.raises(ExistsError, match="empty is a folder, but a file is written"):
        outputs.require_file(Path("empty"), overwrite=True)


@pytest.mark.parametrize(("name", "fits"), [("a.html", True), ("a.HTML", True), ("a.pdf", False)])
def test_a_file_ends_as_its_content_does(here, name, fits):
    def call() -> None:
        outputs.require_file(Path(name), overwrite=False, endings=(".html", ".htm"))

    if fits:
        call()
    else:
        with pytest.raises(ConfigError, match=r"'a\.pdf' must end in \.html or \.htm"):
            call()


def test_a_folder_of_results_may_hold_other_files_but_not_look_like_one(here):
    for name in ("thesis", "empty", "new", "v1.0"):
        outputs.require_folder(Path(name))
    (here / "old.masks").mkdir()
    outputs.require_folder(Path("old.masks"))
    for name, message in (("out.png", "like a file"), ("photo", "is a file")):
        with pytest.raises(EsamError, match=message):
            outputs.require_folder(Path(name))
    with pytest.raises(ConfigError, match="lies in thesis, which is read"):
        outputs.require_folder(Path("thesis/out"), inputs=[Path("thesis")])
    outputs.require_folder(Path("."), inputs=[Path("thesis")])


def test_nothing_is_made_or_changed(here):
    before = snapshot(here)
    for name in ("thesis", "model", "new", "x.onnx", "photo"):
        for own in (True, False):
            try:
                new_folder(Path(name), own=own)
                outputs.require_folder(Path(name))
            except EsamError:
                pass
    assert snapshot(here) == before and not Path("new").exists()
