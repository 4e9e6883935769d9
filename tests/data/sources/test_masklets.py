"""SA-V's training videos: run lengths for every fourth frame, and frames decoded on demand."""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn_sets, drawn_video, whole

from esam_jax.config import PromptedConfig, VideoConfig
from esam_jax.data import sources, video_file
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.mask_sets import describe
from esam_jax.data.records import AnnotatedSource, Record
from esam_jax.errors import ConfigError, DataError, MissingError

FRAMES = 10  # of a video, of which three have annotations


@pytest.fixture(scope="module")
def video() -> bytes:
    pytest.importorskip("av", reason="PyAV is not installed")
    return drawn_video.mp4([drawn_video.frame(i) for i in range(FRAMES)])


def sav(root: Path, content: bytes = b"") -> Path:
    """Two videos, in folders as archives unpack."""
    for name in ("sav_1", "sav_2"):
        folder = drawn_sets.sav_jsons(root / f"part_{name}", name, FRAMES)
        (folder / f"{name}.mp4").write_bytes(content)
    return root


def opened(folder: Path, **fields: Any) -> sources.Source:
    return sources.open_source(VideoConfig(path=str(folder), **fields))


def names(source: sources.Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def objects(record: Record) -> dict:
    masks = record.annotation("masks")
    identities = [describe(masks, i).identity for i in range(len(masks))]
    return dict(zip(identities, whole.masks(record), strict=True))


ALL = [f"part_{video}/{video}/{frame:05d}" for video in ("sav_1", "sav_2") for frame in (0, 4, 8)]


def test_records_are_the_annotated_frames(tmp_path: Path):
    config = sources.detect(str(sav(tmp_path)))
    assert config == VideoConfig(path=str(tmp_path))
    source = sources.open_source(config)
    assert names(source) == ALL == sorted(ALL)
    found = [objects(source.read(i)) for i in range(3)]
    assert [list(each) for each in found] == [
        ["manual 4", "manual 9", "auto 4"],
        ["manual 4", "auto 4"],  # the other is not visible, which is no fault
        ["manual 4", "auto 4"],
    ]
    for shift, each in enumerate(found):
        np.testing.assert_array_equal(each["manual 4"], drawn_sets.frame(1, 0, shift) > 0)
        np.testing.assert_array_equal(each["auto 4"], drawn_sets.frame(1, 1, shift) > 0)
    assert not source.read(1).findings


@pytest.mark.parametrize(("kind", "wanted"), [("manual", {"manual 4"}), ("auto", {"auto 4"})])
def test_masklets_of_one_kind(tmp_path: Path, kind: str, wanted: set):
    source = opened(sav(tmp_path), masklets=kind)
    assert names(source) == ALL and objects(source.read(2)).keys() == wanted
    (tmp_path / "part_sav_1" / f"sav_1_{kind}.json").unlink()
    source = opened(tmp_path, masklets=kind)
    assert names(source) == ALL[3:] and isinstance(source, AnnotatedSource)
    (finding,) = source.findings
    assert finding.text.endswith(f"sav_1.mp4 has no part_sav_1/sav_1_{kind}.json beside it")
    assert len(opened(tmp_path)) == 6  # the other kind is there


def test_a_split_is_a_list_of_videos(tmp_path: Path):
    (sav(tmp_path) / "mine.txt").write_text("sav_2\nsav_3\n")
    source = opened(tmp_path, split="mine")
    assert names(source) == ALL[3:] and isinstance(source, AnnotatedSource)
    assert source.findings[0].text == "sav_3 is listed, but is no video"


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9])
def test_every_fourth_frame_has_annotations(tmp_path: Path, count: int):
    drawn_sets.sav_jsons(tmp_path, "v", count)
    (tmp_path / "v.mp4").touch()
    wanted = [f"v/{frame:05d}" for frame in range(0, count, 4)]
    assert names(opened(tmp_path)) == wanted
    for kind in ("manual", "auto"):  # the number of frames is not said at the beginning
        edit(tmp_path / f"v_{kind}.json", lambda c: c.pop("video_frame_count"))
    assert names(opened(tmp_path)) == wanted


# ------------------------------------------------------------------------------------ pictures


def test_frames_are_those_of_the_video(tmp_path: Path, video: bytes):
    source = opened(sav(tmp_path, video))
    for index in (2, 0, 4, 1, 5):
        found = source.read(index).picture.rgb()
        wanted = drawn_video.frame(4 * (index % 3))
        assert found.shape == wanted.shape and np.abs(found - wanted.astype(int)).max() < 4


@pytest.mark.parametrize("times", [None, [0, 1, 2, 5, 6, 9, 20, 21, 22, 40]])
def test_any_frame_is_found_by_its_number(tmp_path: Path, times: list | None):
    """Whatever the times of frames, and the order in which they are stored."""
    pytest.importorskip("av", reason="PyAV is not installed")
    frames = [drawn_video.frame(i) for i in range(10)]
    (tmp_path / "v.mp4").write_bytes(drawn_video.mp4(frames, times))
    for number in (9, 0, 3, 8, 1, 7, 2, 6, 5, 4):
        found = video_file.frame(tmp_path / "v.mp4", number)
        assert abs(int(found[6, 5, 1]) - int(frames[number][6, 5, 1])) < 3
    with pytest.raises(DataError, match="it has 10 frames, and none of the number 10"):
        video_file.frame(tmp_path / "v.mp4", 10)


def test_frames_in_order_are_decoded_once(tmp_path: Path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed")
    frames = [drawn_video.frame(i) for i in range(10)]
    (tmp_path / "v.mp4").write_bytes(drawn_video.mp4(frames, key_every=100))
    opened_, genuine = [], video_file._opened
    monkeypatch.setattr(video_file, "_opened", lambda path: opened_.append(path) or genuine(path))
    for number, times in ((0, 2), (3, 2), (7, 2), (7, 3), (2, 4), (9, 4)):
        found = video_file.frame(tmp_path / "v.mp4", number)
        assert np.abs(found - drawn_video.frame(number).astype(int)).max() < 4
        assert len(opened_) == times, number


def test_many_threads_read_one_video(tmp_path: Path, video: bytes):
    (tmp_path / "v.mp4").write_bytes(video)
    numbers = np.random.default_rng(0).integers(0, FRAMES, 80).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: video_file.frame(tmp_path / "v.mp4", i), numbers))
    for number, each in zip(numbers, found, strict=True):
        assert np.abs(each - drawn_video.frame(number).astype(int)).max() < 4


def test_a_video_is_turned_as_players_show_it(tmp_path: Path, video: bytes):
    (tmp_path / "v.mp4").write_bytes(drawn_video.turned(video))
    found = video_file.frame(tmp_path / "v.mp4", 3)
    wanted = np.rot90(drawn_video.frame(3), -1)  # clockwise: the dark right half is below
    assert found.shape == (20, 12, 3) and np.abs(found - wanted.astype(int)).max() < 4


def test_a_video_that_was_replaced_is_read_again(tmp_path: Path, video: bytes):
    path = tmp_path / "v.mp4"
    path.write_bytes(video)
    assert video_file.frame(path, 9).shape == (12, 20, 3)
    path.write_bytes(drawn_video.mp4([drawn_video.frame(i) for i in range(3)]))
    with pytest.raises(DataError, match="has 3 frames"):
        video_file.frame(path, 9)


def test_training_reads_them(tmp_path: Path, video: bytes):
    view = PromptedConfig(image_px=32, min_area_px=1, max_area=1.0, masks=4)
    source = opened(sav(tmp_path, video))
    tally = Tally(examples := Examples(source, view, seed=0), 0.1)
    assert sum(int(tally.view_of(examples[i])["valid"].sum()) for i in range(6)) == 2 * (3 + 2 + 2)
    assert not tally.broken and not tally.findings.all


def test_a_video_of_another_size_is_refused(tmp_path: Path):
    pytest.importorskip("av", reason="PyAV is not installed")
    source = opened(sav(tmp_path, drawn_video.mp4([drawn_video.frame(0, 20, 12)] * 9)))
    with pytest.raises(DataError, match=r"sav_1\.mp4 is 20 x 12, but its annotations say 12 x 20"):
        source.read(0).picture.rgb()


def test_too_large_frames_are_refused(tmp_path: Path, video: bytes, monkeypatch):
    monkeypatch.setattr(video_file, "MAX_PIXELS", 12 * 20 - 1)
    source = opened(sav(tmp_path, video))
    with pytest.raises(DataError, match="frames are 20 x 12, but at most"):
        source.read(0).picture.rgb()


def test_what_is_no_video_is_refused(tmp_path: Path, video: bytes):
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    for number, content in enumerate((b"", b"no video", playlist, video[:200], video[200:])):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{number}\.mp4: broken video|has no video in it"):
            video_file.frame(path, 0)
    with pytest.raises(MissingError, match=r"absent\.mp4"):
        video_file.frame(tmp_path / "absent.mp4", 0)


def test_a_damaged_video_gives_an_error_or_a_frame(tmp_path: Path, video: bytes):
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(60):
        data = bytearray(video)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(256)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data[: rng.integers(1, len(data))] if number % 4 == 0 else data)
        try:
            found = video_file.frame(path, int(rng.integers(10)))
        except DataError as error:
            refused += str(path) in str(error)
        else:
            assert found.dtype == np.uint8 and found.ndim == 3
    assert refused >= 10


def test_without_pyav_masks_are_read_and_frames_name_the_extra(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    record = opened(sav(tmp_path, b"x")).read(0)
    assert len(objects(record)) == 3
    with pytest.raises(
        ConfigError, match=r"PyAV is not installed: pip install 'esam_jax\[video\]'"
    ):
        record.picture.rgb()


# ----------------------------------------------------------------------------------- annotations

# What is done to the json of people; what is said of the first video, when it is opened or read.
BAD_JSON: dict[str, tuple[Callable[[dict], object], str]] = {
    "no masklets": (lambda c: c.pop("masklet"), "has no 'masklet'"),
    "masklets of another type": (lambda c: c.update(masklet={}), "'masklet' of type dict"),
    "fewer frames than said": (lambda c: c["masklet"].clear(), "has 0 annotated frames"),
    "no list of objects": (lambda c: c.update(masklet=[7, 7, 7]), "is no list of at most"),
    "too many objects": (lambda c: c["masklet"].__setitem__(0, [None] * 10_001), "at most 10000"),
    "no size": (
        lambda c: [c.pop("video_height"), c.update(masklet=[[], [], []])],
        "",
    ),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_bad_json_costs_its_frame(tmp_path: Path, case: str):
    change, message = BAD_JSON[case]
    edit(sav(tmp_path) / "part_sav_1" / "sav_1_manual.json", change)
    source = opened(tmp_path)
    if not message:  # the other json has the size
        assert objects(source.read(0)).keys() == {"auto 4"}
        source = opened(tmp_path, masklets="manual")
        message = "00000: its annotations have no size"
    with pytest.raises(DataError, match=f"sav_1.*{message}"):
        source.read(0)
    assert len(objects(source.read(3))) >= 2


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_what_is_no_json_object_costs_its_video(tmp_path: Path, text: str):
    (sav(tmp_path) / "part_sav_1" / "sav_1_manual.json").write_text(text)
    source = opened(tmp_path)
    assert names(source) == ALL[3:] and isinstance(source, AnnotatedSource)
    assert "sav_1_manual.json" in source.findings[0].text


@pytest.mark.parametrize("width", [2**14 + 1, 2**63, 1e300])
def test_a_size_is_checked_before_there_is_room_for_it(tmp_path: Path, width: float):
    edit(sav(tmp_path) / "part_sav_1" / "sav_1_manual.json", lambda c: c.update(video_width=width))
    with pytest.raises(DataError, match=r"00000: its annotations say .* but at most 16384 a side"):
        opened(tmp_path).read(0)


BAD_MASK: dict[str, tuple[Any, str]] = {
    "text": ("x", "must be a list of at least one polygon"),
    "another size": ({"size": [20, 12], "counts": [40, 200]}, r"its size is \[20, 12\]"),
    "short": ({"size": [12, 20], "counts": [239]}, "sum to 239"),
    "no counts": ({"size": [12, 20]}, "counts is a NoneType"),
}


@pytest.mark.parametrize("case", BAD_MASK)
def test_a_bad_mask_costs_itself(tmp_path: Path, case: str, video: bytes):
    value, message = BAD_MASK[case]
    edit(
        sav(tmp_path, video) / "part_sav_1" / "sav_1_manual.json",
        lambda c: c["masklet"][0].__setitem__(0, value),
    )
    record = opened(tmp_path).read(0)
    with pytest.raises(DataError, match=f"00000: masklet manual 4: .*{message}"):
        whole.masks(record, 0)
    assert whole.masks(record, 1).any() and whole.masks(record, 2).any()


@pytest.mark.parametrize("ids", [None, [4, 4], [4], "ab", [4, "9"]])
def test_ids_that_tell_nothing_apart_are_places(tmp_path: Path, ids: Any):
    edit(sav(tmp_path) / "part_sav_1" / "sav_1_manual.json", lambda c: c.update(masklet_id=ids))
    record = opened(tmp_path).read(0)
    assert list(objects(record)) == ["manual 0", "manual 1", "auto 4"]


def test_the_digest_follows_the_jsons(tmp_path: Path):
    source = opened(sav(tmp_path))
    assert isinstance(source, AnnotatedSource)
    before = source.digest()
    edit(tmp_path / "part_sav_1" / "sav_1_auto.json", lambda c: c.update(masklet_id=[5]))
    assert before.startswith("annotations of 4 ") and source.digest() != before
    assert list(objects(source.read(0))) == ["manual 4", "manual 9", "auto 5"]
