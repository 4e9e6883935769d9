"""Several data sets as one source."""

import dataclasses
import json
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import drawn_sets, made_sets, toy

from esam_jax import cli, sharding, tasks
from esam_jax.config import (
    CocoConfig,
    CropConfig,
    DataConfig,
    ImageFolderConfig,
    MixtureConfig,
    PromptedConfig,
    RunConfig,
    Sa1bConfig,
    ScenesConfig,
)
from esam_jax.config import json as config_json
from esam_jax.data import loader, packed_records, sources
from esam_jax.data.examples import Examples
from esam_jax.data.records import AnnotatedSource, PartlyAnnotatedSource, summary
from esam_jax.datasets import packing
from esam_jax.errors import ConfigError, DataError, MissingError
from esam_jax.train import loop


@pytest.fixture
def places(tmp_path):
    """Five pictures of COCO, three of SA-1B, four without masks."""
    made_sets.coco(tmp_path / "coco", 5)
    made_sets.sa1b(tmp_path / "sa1b", 3)
    made_sets.image_folder(tmp_path / "folder", 4)
    return str(tmp_path / "coco" / "instances.json"), str(tmp_path / "sa1b"), tmp_path / "folder"


def mixed(*paths, times=(), **more):
    times = tuple(map(float, times))
    return MixtureConfig(paths=tuple(map(str, paths)), times=times, **more)


def opened(*paths, **more):
    return sources.open_source(mixed(*paths, **more))


def names(source):
    return [source.name(i) for i in range(len(source))]


def refused(*paths, error=ConfigError, needs=(), **more):
    with pytest.raises(error) as caught:
        sources.open_source(mixed(*paths, **more), needs=frozenset(needs))
    return str(caught.value)


# ------------------------------------------------------------------------------------- records


def test_records_are_those_of_its_data_sets_in_turn(places):
    coco, sa1b, _ = places
    source = opened(coco, sa1b)
    alone = [sources.open_source(each(path=path)) for each, path in zip(KINDS, places)]
    expected = [(k, of, i) for k, of in enumerate(alone, 1) for i in range(len(of))]
    assert len(source) == len(expected) == 8
    for index, (number, of, place) in enumerate(expected):
        record, same = source.read(index), of.read(place)
        assert source.name(index) == record.name == f"{number}/{of.name(place)}"
        renamed = dataclasses.replace(same, name=record.name)
        assert packed_records.encode(record) == packed_records.encode(renamed)


KINDS = (CocoConfig, Sa1bConfig)


def test_a_copy_of_a_record_is_another_example_of_one_picture(places):
    source = opened(*places[:2], times=(2, 1))
    found = names(source)
    assert found[5:10] == [f"copy_2/{name}" for name in found[:5]] and len(found) == 13
    first, second = source.read(0), source.read(5)
    assert second.name == "copy_2/" + first.name
    assert (first.picture.rgb() == second.picture.rgb()).all()
    view = PromptedConfig(image_px=32, masks=1, min_area_px=1, box_share=0.0)
    examples, views = Examples(source, view, seed=0), {}
    for position in range(13):
        example = examples[position]
        views[example.attempts[-1].name] = example.view
    pairs = [(views[name], views[f"copy_2/{name}"]) for name in found[:5]]
    assert all((one["image"] == other["image"]).all() for one, other in pairs)
    assert any((one["points"] != other["points"]).any() for one, other in pairs)


def test_a_copy_in_another_process_reads_the_same(places):
    source = opened(*places[:2], times=(1.5, 2.5))
    copy = pickle.loads(pickle.dumps(source))
    assert names(copy) == names(source) and summary(copy) == summary(source)
    for index in range(len(source)):
        assert packed_records.encode(copy.read(index)) == packed_records.encode(source.read(index))


def test_held_out_and_listed_records_are_distinct_ones(places, tmp_path):
    """A picture of which a copy is trained on is not held out, and none is measured twice."""
    both = {"times": (3, 2), "heldout": 3}
    trained = names(opened(*places[:2], part="train", **both))
    held = names(opened(*places[:2], part="heldout", **both))
    assert len(held) == 3 and not any(name.endswith(tuple(held)) for name in trained)
    complete = names(opened(*places[:2]))
    assert {name.removeprefix("copy_2/").removeprefix("copy_3/") for name in trained} == {
        *complete
    } - {*held}
    (tmp_path / "ids.txt").write_text(f"{complete[1]}\nsa_2\n")
    listed = opened(*places[:2], ids=str(tmp_path / "ids.txt"), times=(2, 1))
    assert names(listed) == [complete[1], f"copy_2/{complete[1]}", "2/sa_2.jpg"]


def test_what_is_said_behind_a_path_is_of_that_path(places, tmp_path):
    coco, sa1b, folder = places
    (tmp_path / "ids.txt").write_text("sa_1\n")
    davis = drawn_sets.davis(tmp_path / "davis")
    split = dataclasses.replace(sources.named("video", str(davis)), split="2017/val")
    of_split = sources.open_source(split)
    assert len(of_split) > 0
    source = opened(
        f"{coco},part=heldout,heldout=2",
        f"{sa1b},ids={tmp_path / 'ids.txt'}",
        f"{folder},kind=image_folder",
        f"{davis},split=2017/val",
        "scenes,split=train,scenes=7",
    )
    found = names(source)
    assert len(found) == 2 + 1 + 4 + len(of_split) + 7
    assert found[2] == "2/sa_1.jpg" and found[-1] == "5/train/6"
    assert [name for name in found if name.startswith("4/")] == [
        f"4/{name}" for name in names(of_split)
    ]
    assert "masks" not in source.read(3).annotations


def test_choices_hold_for_all_data_sets_but_for_one_that_says_otherwise(coco_json, tmp_path):
    """Without its crowds, that file has two pictures with objects."""
    assert len(opened(coco_json)) == 2 and len(opened(coco_json, crowds="use")) == 3
    assert len(opened(f"{coco_json},crowds=use")) == 3
    assert len(opened(f"{coco_json},crowds=leave_out", crowds="use")) == 2


def test_sixteen_bits_and_doubtful_exif_are_read_as_the_mixture_says(places):
    coco, sa1b, _ = places
    of_all = {"sixteen_bit": "stretch", "ambiguous_exif": "stored"}
    first, second = opened(f"{coco},ambiguous_exif=upright", sa1b, **of_all).configs
    assert (first.sixteen_bit, first.ambiguous_exif) == ("stretch", "upright")
    assert (second.sixteen_bit, second.ambiguous_exif) == ("stretch", "stored")


# -------------------------------------------------------------------------------- what is known


def test_a_mixture_has_what_all_its_data_sets_have(places, tmp_path):
    coco, sa1b, folder = places
    source = opened(coco, sa1b)
    assert isinstance(source, PartlyAnnotatedSource) and isinstance(source, AnnotatedSource)
    assert {*source.lacks} == {"label", "semantic", "boundaries", "federated"}
    sources.open_source(mixed(coco, sa1b), needs=frozenset({"masks"}))
    said = refused(coco, folder, needs=["masks"])
    assert said == (
        f"the source 'mixture' has no masks here: {folder} is image_folder data: leave it out"
    )
    made_sets.image_folder(tmp_path / "flat", 2)
    for path in (tmp_path / "flat").glob("*/*"):
        path.rename(tmp_path / "flat" / path.name)
    said = refused(folder, tmp_path / "flat", needs=["label"])
    assert f"no label here: {tmp_path / 'flat'}: " in said and "lies in no folder" in said


def test_findings_are_those_of_all(coco_json, places):
    source = opened(coco_json, places[0])
    assert isinstance(source, AnnotatedSource)
    alone = sources.open_source(CocoConfig(path=str(coco_json)))
    assert isinstance(alone, AnnotatedSource)
    assert {*alone.findings} <= {*source.findings}
    repeated = opened(coco_json, places[0], times=(2, 1))
    assert isinstance(repeated, AnnotatedSource) and repeated.findings == source.findings


def test_the_summary_changes_with_any_of_its_data_sets_and_how_they_are_read(places):
    coco, sa1b, _ = places
    known = {summary(opened(coco, sa1b))}
    known.add(summary(opened(coco, sa1b, times=(1, 2))))
    known.add(summary(opened(coco, sa1b, times=(2, 1))))
    known.add(summary(opened(sa1b, coco)))
    known.add(summary(opened(f"{coco},ambiguous_exif=stored", sa1b)))
    assert len(known) == 5
    content = json.loads(Path(coco).read_text())
    content["annotations"][0]["segmentation"] = [[1, 1, 9, 1, 9, 9, 1, 9]]
    Path(coco).write_text(json.dumps(content))
    assert summary(opened(coco, sa1b)) not in known


def test_the_summary_stays_when_the_folder_moves(places, tmp_path):
    coco, sa1b, _ = places
    before = summary(opened(coco, sa1b, times=(1, 2.5)))
    (tmp_path / "sa1b").rename(tmp_path / "moved")
    assert summary(opened(coco, tmp_path / "moved", times=(1, 2.5))) == before


def test_categories_are_known_where_all_agree(tmp_path):
    categories = {"categories": [{"id": 1, "name": "ant"}]}
    one, other, third = tmp_path / "one", tmp_path / "other", tmp_path / "third"
    paths = [made_sets.coco(folder, 2, categories) for folder in (one, other)]
    paths.append(made_sets.coco(third, 2, {"categories": [{"id": 1, "name": "bee"}]}))
    assert opened(*paths[:2]).categories == {1: "ant"}
    assert opened(*paths).categories is None


def test_a_mixture_is_packed_as_it_is_read(places, tmp_path):
    config = mixed(*places[:2], times=(1, 2))
    source = sources.open_source(config)
    packing.write(source, tmp_path / "pack", packing.plan(source, config))
    packed = sources.open_source(sources.detect(str(tmp_path / "pack")))
    assert names(packed) == names(source)
    for i in range(len(source)):
        assert packed_records.encode(packed.read(i)) == packed_records.encode(source.read(i))


def test_a_damaged_file_of_a_pack_is_found_in_a_mixture(places, tmp_path):
    coco = CocoConfig(path=places[0])
    source = sources.open_source(coco)
    packing.write(source, tmp_path / "pack", packing.plan(source, coco))
    mixture = opened(tmp_path / "pack", places[1], times=(1, 2))
    assert list(mixture.damage()) == []
    (shard,) = (tmp_path / "pack").glob("*.array_record")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (said,) = mixture.damage()
    assert shard.name in said and "checksum is wrong" in said


# -------------------------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"paths": ("a", "b", "a")}, "paths is ('a', 'b', 'a'), but must not repeat itself: raise"),
        ({"paths": ("a", "b"), "times": (1.0,)}, "must be as many numbers as there are paths: 2"),
        ({"times": (2.0,)}, "must be as many numbers as there are paths: 0"),
        ({"paths": ("a",), "times": (0.0,)}, "times is (0.0,), but each must be above 0"),
        ({"paths": ("a",), "times": (-1.0,)}, "each must be above 0"),
        ({"paths": ("a",), "times": (float("nan"),)}, "each must be above 0"),
        ({"paths": ("a",), "times": (float("inf"),)}, "each must be at most 1000000"),
        ({"paths": ("http://a/b",)}, "is ('http://a/b',), but"),
        ({"paths": ("a",), "heldout": 3}, "set both"),
    ],
)
def test_wrong_values_are_refused_by_name(values, said):
    with pytest.raises(ConfigError) as caught:
        MixtureConfig(**values)
    assert said in str(caught.value)


def test_what_cannot_be_opened_is_refused_by_name(places, tmp_path):
    coco, sa1b, _ = places
    assert refused() == (
        "source.paths is empty, but the source 'mixture' reads several: give "
        "--data.source.paths PATH PATH ... with --data.source.times 1 2.5 ..."
    )
    assert "mixture in a mixture" in refused(coco, "mixture")
    assert "mixture in a mixture" in refused(f"{coco},kind=mixture")
    assert "twice, also as" in refused(sa1b, f"{tmp_path}/folder/../sa1b")
    assert "twice, also as" in refused(sa1b, f"{sa1b},part=all")
    assert "keys of coco data are sixteen_bit, ids" in refused(f"{coco},crowd=use")
    assert "source.paths[0].kind is 'cocoa', but must be one of scenes, tf" in refused(
        f"{coco},kind=cocoa"
    )
    assert "source.paths[1].crowds is 'maybe', but must be one of leave_out, use" in refused(
        sa1b, f"{coco},crowds=maybe"
    )
    assert "paths[0].heldout is 'x', but must be an integer" in refused(f"{coco},heldout=x")
    assert "set both" in refused(f"{coco},heldout=2")
    absent = refused(coco, tmp_path / "absent", error=MissingError)
    assert f"{tmp_path / 'absent'} does not exist" in absent
    assert "times is 1e-06 for path 2, which leaves none of its 3 records" in refused(
        coco, sa1b, times=(1, 0.000001), error=DataError
    )


def test_the_json_of_a_config_gives_it_back_and_places_may_differ(places):
    config = mixed(*places[:2], times=(1, 0.25))
    plain = json.loads(json.dumps(config_json.to_json(config)))
    assert config_json.from_json(MixtureConfig, plain, "source") == config
    assert config_json.may_differ(MixtureConfig, "paths")
    assert not config_json.may_differ(MixtureConfig, "times")


# -------------------------------------------------------------------------------- command line


def run(capsys, *argv):
    code = cli.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_data_commands_read_every_record_once(places, tmp_path, capsys):
    keys = ["mixture", "--data.source.paths", *places[:2], "--data.source.times", "2", "3"]
    code, out, _ = run(capsys, "data", "check", *keys, "--json", "--workers", "1")
    found = json.loads(out)
    assert code == 0 and (found["kind"], found["records"]) == ("mixture", 8)
    masks = sum(len(made_sets.masks(number)) for number in range(3))
    assert found["masks"]["count"] + found["masks"]["empty"] == 5 * 3 + masks
    ids = tmp_path / "ids.txt"
    code, out, _ = run(capsys, "data", "subset", *keys, "--out", ids, "--min-masks", "3")
    listed = ids.read_text().splitlines()
    assert code == 0 and {name[:2] for name in listed} == {"1/", "2/"} and len(listed) == 6
    code, out, _ = run(capsys, "data", "check", *keys, "--data.source.ids", ids, "--json")
    assert code == 0 and json.loads(out)["records"] == 6


def test_pack_and_show_take_a_mixture(places, tmp_path, capsys):
    keys = ["mixture", "--data.source.paths", *places[:2], "--data.source.times", "1", "2"]
    code, out, _ = run(capsys, "data", "pack", *keys, "--out", tmp_path / "pack", "--workers", "1")
    assert code == 0 and "11 records with masks in 1 shard" in out
    code, out, _ = run(
        capsys, "data", "show", *keys, "--out", tmp_path / "a.png", "--examples", "11", "--json"
    )
    assert code == 0
    assert sorted(json.loads(out)["names"]) == sorted(names(opened(*places[:2], times=(1, 2))))
    code, _, err = run(capsys, "data", "pack", *keys, "--out", places[1], "--workers", "1")
    assert code == 2 and places[1] in err


def test_wrong_command_lines_say_what_to_write(places, tmp_path, capsys):
    coco, sa1b, _ = places
    for argv, said in (
        (["mixture"], "give --data.source.paths PATH PATH"),
        (["mixture", "--data.source.paths", coco, sa1b, "--data.source.times", "2"], "there are p"),
        ([coco, "--data.source.kind", "mixture"], "'mixture', which reads no path of this kind: w"),
        ([coco, "--data.source.paths", "x"], "add --data.source.kind mixture, which have it"),
        (["mixture", "--data.source.path", coco], "no option --data.source.path"),
    ):
        code, _, err = run(capsys, "data", "check", *argv)
        assert code == 2 and said in err and err.count("\n") == 1, err


def test_a_folder_named_so_is_that_folder(places, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert sources.detect("mixture") == MixtureConfig()
    places[2].rename("mixture")
    assert sources.detect("mixture") == ImageFolderConfig(path="mixture")
    assert sources.paths(mixed("a,kind=coco", "b")) == ("a", "b")
    assert sources.paths(ScenesConfig()) == () and sources.paths(CocoConfig(path="x")) == ("x",)


class Viewed:
    """The real batches, as the toy task takes them."""

    def __init__(self, *arguments, **options):
        self._stream = real_stream(*arguments, **options)
        self._place = sharding.batch(options["mesh"])

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self._stream)
        x = np.asarray(batch["image"], np.float32).reshape(len(batch["image"]), -1)[:, :8] / 255
        rows = {"x": x, "y": x[:, ::-1], "weight": np.ones(len(x), np.float32)}
        return jax.device_put(rows, self._place)


real_stream = loader.stream


def test_a_run_reads_two_layouts(places, tmp_path, monkeypatch):
    """Three updates of the real loop, from files to the config that is stored."""
    monkeypatch.setattr(tasks, "build", lambda cfg: toy.task())
    monkeypatch.setattr(loader, "stream", Viewed)
    view = CropConfig(image_px=64)
    source = mixed(*places[:2], times=(1, 2.5))
    cfg = toy.config(data=DataConfig(source=source, view=view, threads=2), steps=3)
    loop.run(cfg, tmp_path, progress=False)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert {*losses} == {1, 2, 3} and len({*losses.values()}) == 3
    stored = json.loads((tmp_path / "config.json").read_text())
    assert config_json.from_json(RunConfig, stored, "config").data.source == source
