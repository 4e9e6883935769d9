"""Weight files come back as they were written; damaged and hostile ones are refused by a rule."""

import argparse
import collections
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers import weight_files as made

from esam_jax.convert.formats import tensor_files, torch_file, torch_pickle
from esam_jax.errors import CheckpointError, MissingError

RNG = np.random.default_rng(0)
TENSORS = {
    "blocks.0/weight": RNG.normal(size=(3, 4)).astype(np.float32),
    "strided": RNG.normal(size=(6, 4)).astype(np.float32).T[::2],
    "half": RNG.normal(size=5).astype(np.float16),
    "brain": RNG.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
    "double": RNG.normal(size=2),
    "num_batches_tracked": np.array(7),
    "mask": np.array([True, False]),
    "nothing": np.zeros((0, 3), np.float32),
    "Größe": np.ones(1, np.float32),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert (found[name].shape, found[name].dtype) == (x.shape, x.dtype), name
        np.testing.assert_array_equal(found[name], x)


def refused(path: Path, message: str, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error, match=message) as caught:
        tensor_files.read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# ------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("lazily", [False, True])
def test_safetensors_are_what_the_library_writes_and_reads(tmp_path, lazily):
    path = tmp_path / "a.safetensors"
    metadata = {"origin": 'a "test"'}
    tensor_files.write_safetensors(
        path, (kv for kv in TENSORS.items()) if lazily else TENSORS, metadata
    )
    whole = {name: np.array(x, order="C") for name, x in TENSORS.items()}
    safetensors.numpy.save_file(whole, tmp_path / "b.safetensors", metadata)
    assert path.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert_equal(safetensors.numpy.load_file(path), TENSORS)
    found = tensor_files.read(path)
    assert_equal(found.tensors, TENSORS)
    assert (found.metadata, found.format, found.wrapped) == (metadata, "safetensors", None)
    assert found.odd_dtypes == {"double": "float64", "num_batches_tracked": "int64", "mask": "bool"}


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
def test_torch_loads_what_is_written_and_it_is_read(tmp_path, torch, wrap):
    path = tmp_path / "a.pt"
    tensor_files.write_torch(path, TENSORS, wrap)
    loaded = torch.load(path, weights_only=True)
    loaded = loaded if wrap is None else loaded[wrap]
    assert loaded["num_batches_tracked"].shape == () and loaded["brain"].dtype == torch.bfloat16
    found = tensor_files.read(path)
    assert_equal(found.tensors, TENSORS)
    assert (found.format, found.wrapped, found.ignored) == ("torch", wrap, ())


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_training_checkpoints_give_their_state_dict(tmp_path, torch, modern, suffix):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    model[1].weight = model[0].bias  # tied
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 3)).sum().backward()
    optimiser.step()
    content = {"state_dict": model.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 3}
    path = tmp_path / f"a{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=modern)
    found = tensor_files.read(path)
    assert (found.wrapped, found.ignored) == ("state_dict", ("optimizer", "epoch"))
    assert_equal(found.tensors, {name: x.numpy() for name, x in model.state_dict().items()})
    bare = collections.OrderedDict(model.named_parameters())
    torch.save(bare, path, _use_new_zipfile_serialization=modern)
    assert_equal(tensor_files.read(path).tensors, {n: x.detach().numpy() for n, x in bare.items()})


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zipped_torch_file_is_read_and_leaves_nothing(tmp_path, torch, monkeypatch, compression):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    tensor_files.write_torch(tmp_path / "a.pt", TENSORS, "model")
    inside = {"weights/a.pt": (tmp_path / "a.pt").read_bytes(), "__MACOSX/weights/._a.pt": b"x"}
    path = put(tmp_path / "a.zip", made.archive(inside, compression))
    found = tensor_files.read(path)
    assert_equal(found.tensors, TENSORS)
    assert (found.format, found.wrapped, found.path) == ("zip", "model", path)
    assert list(scratch.iterdir()) == []


def test_shards_are_read_as_one(tmp_path):
    index = made.shards(
        tmp_path,
        {"x": "one.safetensors", "y": "two.safetensors"},
        one=made.safetensors({"x": made.entry(0, 4), "__metadata__": {"format": "pt"}}, b"abcd"),
        two=made.safetensors({"y": made.entry(0, 8)}, b"efghijkl"),
    )
    for path in (index, tmp_path):
        found = tensor_files.read(path)
        assert {name: x.tobytes() for name, x in found.tensors.items()} == {
            "x": b"abcd",
            "y": b"efghijkl",
        }
        assert (found.format, found.metadata, found.path) == ("sharded", {"format": "pt"}, path)


def test_what_is_read_cannot_be_written_to_and_outlives_the_file(tmp_path, torch):
    for name, write in (
        ("a.pt", tensor_files.write_torch),
        ("a.safetensors", tensor_files.write_safetensors),
    ):
        write(tmp_path / name, TENSORS)
        found = tensor_files.read(tmp_path / name).tensors
        write(tmp_path / name, {"other": np.zeros(3)})
        (tmp_path / name).unlink()
        assert_equal(found, TENSORS)
        assert not any(x.flags.writeable for x in found.values())


# ------------------------------------------------------------------------------------- writing


def test_writing_is_whole_or_not_at_all(tmp_path, torch, monkeypatch):
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    for name, write in (
        ("a.safetensors", tensor_files.write_safetensors),
        ("a.pt", tensor_files.write_torch),
    ):
        write(tmp_path / name, {"x": np.ones(3)})
        (tmp_path / "usual").write_bytes(b"")
        assert (tmp_path / name).stat().st_mode == (tmp_path / "usual").stat().st_mode
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full_disk)
            with pytest.raises(MissingError, match=f"{name} cannot be written .*No space"):
                write(tmp_path / name, {"x": np.zeros(3)})
        assert tensor_files.read(tmp_path / name).tensors["x"].sum() == 3
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("write", [tensor_files.write_safetensors, tensor_files.write_torch])
def test_what_no_file_can_hold_is_not_written(tmp_path, torch, write):
    for tensors, message in (
        ([("x", np.ones(1)), ("x", np.ones(1))], "two tensors are named 'x'"),
        ({"x": np.ones(1, np.complex64)}, "'x'.* complex64|complex64 tensor 'x'"),
        ({"x": np.ones(1, ">f4")}, ">f4"),
        ({"\ud800": np.ones(1)}, "is not Unicode text"),
    ):
        with pytest.raises(CheckpointError, match=message):
            write(tmp_path / "a", tensors)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- safetensors


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a complete safetensors file"),
        (b"1234567", "not a complete safetensors file"),
        (struct.pack("<Q", 2**31) + b"{}", "a header of 2147483648 bytes"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "a header of 18446744073709551615 bytes"),
        (made.safetensors(b"[]"), "not a JSON object"),
        (made.safetensors(b'{"a":'), "is not JSON"),
        (made.safetensors(b'{"a":' + b"[" * 100_000), "is not JSON"),
        (made.safetensors(b'{"\xff":1}'), "is not JSON"),
        (made.safetensors(b'{"a":{"a":1,"a":1}}'), "names 'a' more than once"),
        (made.safetensors({"a": 1}), "must have dtype, shape and data_offsets"),
        (made.safetensors({"a": {**made.entry(0, 4), "x": 1}}, bytes(4)), "nothing else"),
        (made.safetensors({"\ud800": made.entry(0, 4)}, bytes(4)), "not Unicode text"),
        (made.safetensors({"__metadata__": {"a": 1}}), "object of texts"),
        (made.safetensors({"a": made.entry(0, 4, dtype="F33")}, bytes(4)), "dtype 'F33'"),
        (made.safetensors({"a": made.entry(0, 4, dtype=["F32"])}, bytes(4)), "dtype a list"),
        (made.safetensors({"a": made.entry(0, 4, shape=[-1])}, bytes(4)), "integers from 0"),
        (made.safetensors({"a": made.entry(0, 4, shape=[1.0])}, bytes(4)), "integers from 0"),
        (made.safetensors({"a": made.entry(0, 4, shape=[True])}, bytes(4)), "integers from 0"),
        (made.safetensors({"a": made.entry(0, 4, shape=[2**62, 4])}, bytes(4)), "2\\*\\*40 values"),
        (made.safetensors({"a": made.entry(0, 0, shape=[0, 2**62])}), "2\\*\\*40 values"),
        (made.safetensors({"a": made.entry(0, 4, shape=[1] * 33)}, bytes(4)), "32 dimensions"),
        (made.safetensors({"a": made.entry(0, 4, shape=[2])}, bytes(4)), "does not fill"),
        (made.safetensors({"a": made.entry(0, 8)}, bytes(4)), "not inside the 4 bytes"),
        (made.safetensors({"a": made.entry(-4, 0)}, bytes(4)), "not inside"),
        (made.safetensors({"a": made.entry(8, 4, shape=[1])}, bytes(8)), "not inside"),
        (made.safetensors({"a": made.entry(2**64, 2**64 + 4)}, bytes(4)), "not inside"),
        (
            made.safetensors({"a": made.entry(0, 8), "b": made.entry(4, 12)}, bytes(12)),
            "'b' overlaps",
        ),
        (made.safetensors({"a": made.entry(0, 4), "b": made.entry(8, 12)}, bytes(12)), "a hole"),
        (made.safetensors({"a": made.entry(0, 4)}, bytes(5)), "1 bytes behind its last tensor"),
    ],
)
def test_wrong_safetensors_are_refused(tmp_path, data, message):
    refused(put(tmp_path / "a.safetensors", data), message)


def test_every_cut_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    tensor_files.write_safetensors(path, TENSORS)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        refused(put(path, data[:length]), "a.safetensors")


# --------------------------------------------------------------------------------------- shards


ONE = made.safetensors({"x": made.entry(0, 4)}, b"abcd")


@pytest.mark.parametrize(
    "name",
    ["../one.safetensors", "/etc/one.safetensors", "below/one.safetensors", "..", "", "one.bin",
     "one\0.safetensors", "below\\one.safetensors", "linked.safetensors"],
)  # fmt: skip
def test_shards_lie_beside_their_index(tmp_path, name):
    folder = tmp_path / "model"
    (folder / "below").mkdir(parents=True)
    for place in (tmp_path, folder / "below"):
        (place / "one.safetensors").write_bytes(ONE)
    (folder / "linked.safetensors").symlink_to(tmp_path / "one.safetensors")
    refused(made.shards(folder, {"x": name}), "is not in its folder")


def test_shards_and_index_agree(tmp_path):
    both = made.safetensors({"x": made.entry(0, 4), "y": made.entry(4, 8)}, bytes(8))
    files_of_both = {"one": ONE, "two": both}
    one, two = "one.safetensors", "two.safetensors"
    refused(made.shards(tmp_path, {"x": one, "y": two}, **files_of_both), "disagree about 'x'")
    refused(made.shards(tmp_path, {"x": one, "z": one}, **files_of_both), "disagree about 'z'")
    refused(made.shards(tmp_path, {"x": "three.safetensors"}), "no shard at", MissingError)
    refused(made.shards(tmp_path, {"x": 1}), "weight_map must give")
    index = tmp_path / "model.safetensors.index.json"
    put(index, b'{"weight_map":{"x":"one.safetensors","x":"two.safetensors"}}')
    refused(index, "names 'x' more than once")
    refused(put(index, b"{"), "is not JSON")
    refused(put(index, b"[]"), "not a JSON object")
    index.unlink()
    refused(tmp_path, "no model.safetensors.index.json in", MissingError)


def test_only_weight_files_are_opened(tmp_path):
    refused(tmp_path / "absent.pt", "no file at", MissingError)
    refused(put(tmp_path / "a.onnx", b""), "is not a weight file: it must be .safetensors")
    os.mkfifo(tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "not a regular file")


# ------------------------------------------------------------------------------ hostile pickles


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, torch):
    marker = tmp_path / "marker"
    for modern in (True, False):
        content = {"model": {"w": torch.zeros(3)}, "args": Payload(marker)}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=modern)
        refused(tmp_path / "a.pt", r"nothing in it was run: it holds (_?io|builtins)\.open")
    put(tmp_path / "a.pt", pickle.dumps(Payload(marker)))
    refused(tmp_path / "a.pt", "was not written by torch.save; nothing in it was run")
    zipped = made.archive({"a.pt": made.torch_zip(pickle.dumps(Payload(marker), 2))})
    refused(put(tmp_path / "a.zip", zipped), r"'a.pt' in .* nothing in it was run")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists()  # the payload would have worked


class Marked(argparse.Namespace):
    """Notices when somebody makes one."""

    made = 0

    def __new__(cls, *args, **kwargs):
        cls.made += 1
        return super().__new__(cls)


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_scripts_save_beside_the_weights_is_skipped_without_being_built(
    tmp_path, torch, monkeypatch, modern, protocol
):
    weights = {"w": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}
    beside = argparse.Namespace(lr=1, out=Path("runs"), init={"w": torch.zeros(5)})
    content = {
        "model": weights,
        "args": beside,
        "best": np.float64(0.5),
        "curve": np.arange(3),
        "seen": collections.Counter("aab"),
        "where": Path("a"),
        "epoch": 3,
    }
    path = tmp_path / "mae.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
    monkeypatch.setattr(argparse, "Namespace", Marked)
    found = tensor_files.read(path)
    assert_equal(
        found.tensors,
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.ones(2, ml_dtypes.bfloat16)},
    )
    assert found.wrapped == "model" and found.ignored[0] == "args (argparse.Namespace)"
    assert [each.split(" ")[0] for each in found.ignored] == [*content][1:]
    assert Marked.made == 0


def test_a_namespace_is_no_state_dict(tmp_path, torch):
    torch.save(argparse.Namespace(model={"w": torch.zeros(3)}), tmp_path / "a.pth")
    refused(tmp_path / "a.pth", r"holds a argparse\.Namespace, but must hold a state dict")
    torch.save({"model": {"w": torch.zeros(3), "v": Path("a")}}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "holds values that are not tensors: 'v'")


# --------------------------------------------------------------------------- where weights lie


@pytest.mark.parametrize("key", ["model_state_dict", "module", "net", "params", "ema.module"])
def test_weights_are_found_under_the_keys_of_others(tmp_path, torch, key):
    outer, _, inner = key.partition(".")
    weights = {"w": torch.ones(3)}
    torch.save({outer: {inner: weights} if inner else weights, "epoch": 1}, tmp_path / "a.pth")
    found = tensor_files.read(tmp_path / "a.pth")
    assert (found.wrapped, found.ignored, found.passed_over) == (key, ("epoch",), None)
    assert found.tensors["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("key", ["model_ema", "ema", "state_dict_ema", "swa_model"])
def test_averaged_weights_are_taken_unless_the_raw_ones_are_asked_for(tmp_path, torch, key):
    content = {"model": {"w": torch.zeros(1)}, key: {"w": torch.ones(1)}, "optimizer": {}}
    torch.save(content, tmp_path / "a.pth")
    for weights, taken, other in (
        (None, key, "model"),
        ("ema", key, "model"),
        ("raw", "model", key),
    ):
        found = tensor_files.read(tmp_path / "a.pth", weights)
        assert (found.wrapped, found.passed_over) == (taken, other)
        assert found.tensors["w"].tolist() == [float(taken == key)]
        assert found.ignored == ("optimizer",)


def test_several_sets_of_unknown_names_are_refused(tmp_path, torch):
    one = {"w": torch.zeros(1)}
    torch.save({"left": one, "schema": one}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "several sets of tensors \\('left', 'schema'\\)")


def call(module: str, name: str, *arguments: object) -> bytes:
    return f"c{module}\n{name}\n".encode() + made.plain(arguments) + b"R"


WRONG_VALUES = {
    "bytearray bomb": (call("builtins", "bytearray", 1 << 40), r"builtins\.bytearray"),
    "storage bomb": (call("torch.storage", "UntypedStorage", 1 << 40), r"UntypedStorage"),
    "meta tensor": (call("torch._utils", "_rebuild_meta_tensor_no_storage", 1), "_rebuild_meta"),
    "call of a storage": (call("torch", "FloatStorage", 1 << 40), r"call of torch\.FloatSt"),
    "call of nothing": (made.plain(1) + b")R", "something that is not a function"),
    "stride 0": (made.tensor(shape=(1 << 36,), strides=(0,)), "but the storage has 6"),
    "stride 0, small": (made.tensor(shape=(2, 6), strides=(0, 1)), "12 values up to 6"),
    "grown storage": (made.tensor(shape=(7,), strides=(1,)), "7 values up to 7"),
    "far offset": (made.tensor(offset=5), "up to 11"),
    "far and empty": (made.tensor(offset=7, shape=(0,), strides=(1,)), "up to 7"),
    "negative offset": (made.tensor(offset=-1), "from 0"),
    "negative stride": (made.tensor(strides=(3, -1)), "from 0"),
    "negative size": (made.tensor(shape=(-2, -3)), "from 0"),
    "overflowing shape": (made.tensor(shape=(1 << 62, 4)), r"2\*\*40 values"),
    "overflowing stride": (made.tensor(strides=(1 << 62, 1)), r"2\*\*40 values"),
    "list as shape": (made.tensor(shape=3), "not a list of integers"),
    "strides missing": (made.tensor(strides=(1,)), "one stride for each dimension"),
    "no storage": (made.tensor(made.plain("0")), "a tensor without a storage"),
    "hooks": (
        made.tensor(hooks=made.ORDERED_DICT + made.plain("a") + made.plain(1) + b"s"),
        "an unexpected call",
    ),
    "huge storage": (made.tensor(made.storage(values=1 << 41)), r"2\*\*40 values"),
    "no plain reference": (made.plain(("storage", "x")) + b"Q", "unexpected reference"),
    "quantised storage": (made.tensor(made.storage(kind="QInt8Storage")), "QInt8Storage"),
    "deep key": (b"})" + b"\x85" * 50_000 + made.plain(1) + b"s", "key that is a tuple"),
    "tensor as key": (b"}" + made.tensor() + made.plain(1) + b"s", "key that is a View"),
    "attributes": (made.ORDERED_DICT + made.plain({"items": 1}) + b"b", "attributes of"),
    "attributes of a list": (made.plain([]) + made.plain({}) + b"b", "a change to a list"),
    "append to a dict": (made.plain({}) + made.plain(1) + b"a", "a change to a dict"),
    "items of a list": (made.plain([]) + made.plain(1) * 2 + b"s", "a change to a list"),
    "set": (call("builtins", "set", []), r"builtins\.set"),
    "new object": (b"ccollections\nOrderedDict\n)\x81", "instruction NEWOBJ"),
    "protocol 6": (b"\x80\x06" + made.plain(1), "protocol 6"),
    "bytes as a name": (b"C\x01aC\x01b\x93", "a name that is not text"),
    "no opcode": (b"\xff", "damaged pickle"),
    "empty stack": (b"00000", "instruction POP"),
    "underflow": (b"sssss", "damaged pickle"),
    "no memo": (b"h\x07", "damaged pickle"),
    "no text": (b"X\x01\0\0\0\xff", "damaged pickle"),
    "long text": (b"X\xff\xff\xff\xff", "damaged pickle"),
    "long line": (b"c" + b"a" * 1000 + b"\nb\n", r"it holds aaaaa.*\.\.\., which"),
}  # fmt: skip


@pytest.mark.parametrize("pack", [made.torch_zip, made.torch_legacy])
@pytest.mark.parametrize("fault", WRONG_VALUES)
def test_hostile_pickles_are_refused_by_a_rule(tmp_path, torch, fault, pack):
    value, message = WRONG_VALUES[fault]
    if pack is made.torch_legacy:
        value = value.replace(b"tQ", b"NtQ")  # a reference has one more entry
    for pickled in (made.state(a=made.plain(1), b=value), made.state(model=value)):
        refused(put(tmp_path / "a.pt", pack(pickled)), message)


def test_the_made_files_are_right_before_they_are_made_wrong(tmp_path, torch):
    wanted = {"w": np.frombuffer(made.VALUES, np.float32).reshape(2, 3)}
    legacy = made.tensor(made.storage(more=made.plain(None)))
    for data in (
        made.torch_zip(made.state(w=made.tensor())),
        made.torch_legacy(made.state(w=legacy)),
    ):
        assert_equal(tensor_files.read(put(tmp_path / "a.pt", data)).tensors, wanted)


def test_files_that_hold_no_state_dict_are_refused(tmp_path, torch):
    for content, message in (
        (torch.zeros(3), "holds a tensor, but must hold a state dict"),
        ([torch.zeros(3)], "holds a list, but must"),
        ({"a": torch.zeros(3), "b": 1}, "holds values that are not tensors: 'b'"),
        (
            {"model": {"a": torch.zeros(3), 5: torch.zeros(3)}},
            "holds values that are not tensors: 5",
        ),
        ({"a": torch.zeros(3).to_sparse()}, "_rebuild_sparse_tensor|_get_layout"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, "ComplexFloatStorage"),
        ({"a": torch.zeros(3, device="meta")}, "_rebuild_meta_tensor_no_storage"),
    ):
        torch.save(content, tmp_path / "a.pt")
        refused(tmp_path / "a.pt", message)


def test_quantised_tensors_are_refused(tmp_path, torch):
    value = call("torch._utils", "_rebuild_qtensor", 1)
    put(tmp_path / "a.pt", made.torch_zip(made.state(a=value)))
    refused(tmp_path / "a.pt", "_rebuild_qtensor")


def test_a_name_that_stands_twice_is_refused(tmp_path, torch):
    twice = made.plain("w") + made.tensor() + b"s"
    pickled = made.PROTOCOL + b"}" + twice + twice + made.STOP
    refused(put(tmp_path / "a.pt", made.torch_zip(pickled)), "names 'w' more than once")


def test_tensors_may_be_tied_but_not_without_end(tmp_path, torch):
    body = bytes(40_000)
    view = made.tensor(made.storage(values=10_000), shape=(10_000,), strides=(1,))
    for ties, fits in ((2, True), (3, False)):
        pickled = made.state(**{f"w{i}": view for i in range(ties)})
        path = put(tmp_path / "a.pt", made.torch_zip(pickled, body))
        if fits:
            assert len(tensor_files.read(path).tensors) == ties
        else:
            refused(path, "claims 120000 bytes of tensors")


def test_storages_are_in_the_file_as_they_are_named(tmp_path, torch):
    for block, message in (
        (made.storage(values=7), "another size than the 28 bytes"),
        (made.storage(key="1"), "storage '1' is missing"),
        (made.storage(key="../version"), "is missing"),
    ):
        pickled = made.state(w=made.tensor(block))
        refused(put(tmp_path / "a.pt", made.torch_zip(pickled)), message)
    both = made.state(w=made.tensor(), v=made.tensor(made.storage(kind="IntStorage")))
    refused(put(tmp_path / "a.pt", made.torch_zip(both)), "two different storages '0'")
    good = made.torch_legacy(made.state(w=made.tensor(made.storage(more=made.plain(None)))))
    for data in (good[:-1], good + b"x", good.replace(b"\x06\0\0\0\0\0\0\0", b"\x07" + bytes(7))):
        refused(put(tmp_path / "a.pt", data), "does not hold the storages that it names")


def test_a_dict_under_many_keys_is_looked_at_once(monkeypatch):
    looked: list[object] = []
    monkeypatch.setattr(torch_file, "_has_tensors", lambda value: bool(looked.append(value)))
    shared = {f"{i}": None for i in range(5)}
    assert torch_file._sets({f"{i}": shared for i in range(100)}) == {}
    assert looked == [shared, None]


# ------------------------------------------------------------------------------ hostile archives

GOOD = made.torch_zip(made.state(w=made.tensor()))
PICKLED = made.state(w=made.tensor())


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"archive/data.pkl": PICKLED, "archive/DATA.pkl": PICKLED}, "a member more than once"),
        ({"archive/data.pkl": PICKLED, "../evil": b""}, "named like a file elsewhere"),
        ({"archive/data.pkl": PICKLED, "/evil": b""}, "named like a file elsewhere"),
        ({"archive/data.pkl": PICKLED, "archive\\..\\evil": b""}, "named like a file elsewhere"),
        ({"archive/data.pkl": PICKLED, "other/data.pkl": b""}, "one folder with a data.pkl"),
        ({"archive/version": b"3"}, "one folder with a data.pkl"),
        ({}, "was not written by torch.save"),
        ({"archive/data.pkl": PICKLED, "archive/constants.pkl": b""}, "a TorchScript program"),
        ({"archive/data.pkl": PICKLED, "archive/byteorder": b"big"}, "is not little-endian"),
        ({"archive/data.pkl": bytes(2_000_001)}, "a pickle of 2000001 bytes"),
    ],
)
def test_odd_archives_are_refused(tmp_path, torch, members, message):
    refused(put(tmp_path / "a.pt", made.archive(members)), message)


def test_bombs_are_not_unpacked(tmp_path, torch):
    zeros = bytes(50_000_000)
    bomb = made.torch_zip(PICKLED, zeros, zipfile.ZIP_DEFLATED)
    refused(put(tmp_path / "a.pt", bomb), "is compressed, as torch.save never does")
    outer = made.archive({"a.pt": zeros}, zipfile.ZIP_DEFLATED)
    refused(put(tmp_path / "a.zip", outer), "unpacks to 50000000 bytes from")


def test_archives_that_two_readers_would_read_differently_are_refused(tmp_path, torch):
    for data, message in (
        (GOOD + b"x", "does not end as a zip archive must"),
        (GOOD[:-1], "does not end"),
        (b"PK\3\4" + bytes(18), "does not end"),
        (b"PK\3\4" + GOOD, "must end at"),
        (GOOD + GOOD, "must end at"),
        (
            GOOD[:-12] + struct.pack("<I", 10**9) + GOOD[-8:],
            "a zip directory of 10+ bytes|must end",
        ),
        (GOOD.replace(b"PK\1\2", b"PK\1\3"), "not a complete zip archive"),
        (GOOD.replace(b"\x80\x02}", b"\x80\x02]"), "not a complete zip archive .*CRC"),
    ):
        refused(put(tmp_path / "a.pt", data), message)
    # A member that starts inside another.
    start = GOOD.index(b"PK\1\2")
    directory = bytearray(GOOD[start:])
    second = directory.index(b"PK\1\2", 4)
    directory[second + 42 : second + 46] = bytes(4)
    refused(put(tmp_path / "a.pt", GOOD[:start] + directory), "overlaps another")
    # A member that reaches into the directory.
    last = directory.rindex(b"PK\1\2")
    directory = bytearray(GOOD[start:])
    directory[last + 20 : last + 28] = struct.pack("<II", 1000, 1000)
    refused(put(tmp_path / "a.pt", GOOD[:start] + directory), "reaches beyond the file")


def test_one_torch_file_is_in_a_zip(tmp_path, torch):
    path = tmp_path / "a.zip"
    for members in ({}, {"readme": b""}, {"a.pt": GOOD, "b.pth": GOOD}):
        refused(put(path, made.archive(members)), ".pt or .pth files, but needs one")
    refused(put(path, made.archive({"../a.pt": GOOD})), "named like a file elsewhere")
    refused(put(path, b"no archive"), "does not end as a zip archive must")
    refused(put(path, made.archive({"a.pt": GOOD}, zipfile.ZIP_LZMA)), "in an unusual way")
    wrong = bytearray(made.archive({"a.pt": GOOD}, zipfile.ZIP_DEFLATED))
    at = wrong.rindex(b"PK\1\2")
    wrong[at + 24 : at + 28] = struct.pack("<I", len(GOOD) - 1)  # it unpacks to more than that
    refused(put(path, bytes(wrong)), "CRC|another size")
    wrong[at + 24 : at + 28] = struct.pack("<I", len(GOOD) + 1)
    refused(put(path, bytes(wrong)), "another size|CRC")


def test_tar_archives_are_refused_before_they_are_opened(tmp_path, torch):
    block = bytearray(made.LEGACY_MAGIC.ljust(512, b"\0"))
    block[100:108] = b"0000644\0"
    block[124:136] = b"77777777777\0"
    block[156:157] = b"x"  # a header that says how much of it to read
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    refused(put(tmp_path / "a.pt", bytes(block) + bytes(1024)), "is a tar archive")


# --------------------------------------------------------------------------------------- torch


def test_torch_is_needed_for_writing_alone(tmp_path, torch, monkeypatch):
    path = tmp_path / "a.pt"
    tensor_files.write_torch(path, TENSORS)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_equal(tensor_files.read(path).tensors, TENSORS)
    with pytest.raises(CheckpointError, match=r"needs PyTorch: pip install 'esam_jax\[convert\]'"):
        tensor_files.write_torch(path, {})


def test_no_file_is_ever_unpickled():
    source = Path(torch_file.__file__).read_text() + Path(torch_pickle.__file__).read_text()
    assert "torch.load(" not in source and "import pickle\n" not in source


# -------------------------------------------------------------------------------------- memory


def anonymous_bytes() -> int:
    """Private memory of this process, without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="takes Linux's /proc")


@linux
def test_reading_takes_no_memory(tmp_path, torch):
    size = 64 * 2**20
    wide = {"w": np.ones(size // 4, np.float32)}
    tensor_files.write_safetensors(tmp_path / "a.safetensors", wide)
    tensor_files.write_torch(tmp_path / "a.pt", wide, "model")
    tensor_files.read(tmp_path / "a.pt")
    before = anonymous_bytes()
    found = [tensor_files.read(tmp_path / name).tensors["w"] for name in ("a.safetensors", "a.pt")]
    assert [float(x.sum()) for x in found] == [size / 4, size / 4]
    assert anonymous_bytes() - before < size / 8


def test_writing_strided_views_takes_one_tensor_of_memory(tmp_path):
    one = 4 * 2**20
    views = {str(i): np.broadcast_to(np.float32(i), (2**10, 2**10)) for i in range(8)}
    views["8"] = np.ones((2**10, 2**10), np.float32).T
    tracemalloc.start()
    tensor_files.write_safetensors(tmp_path / "a.safetensors", views)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert one < peak < 2.5 * one
    assert_equal(safetensors.numpy.load_file(tmp_path / "a.safetensors"), views)


def bombs() -> dict[str, bytes]:
    """Files that cost little to make and, read carelessly, a lot to read."""
    sparse = (
        made.tensor(made.storage(values=1 << 38)),
        made.tensor(shape=(1 << 36,), strides=(0,)),
    )
    values = [WRONG_VALUES[x][0] for x in ("bytearray bomb", "storage bomb", "deep key")]
    found = {f"{i}.pt": made.torch_zip(made.state(a=x)) for i, x in enumerate((*values, *sparse))}
    found["lists.pt"] = made.torch_zip(made.PROTOCOL + b"]" * 1_900_000 + b"Q" + made.STOP)
    found["legacy.pt"] = made.torch_legacy(
        made.state(a=made.tensor(made.storage(values=1 << 38, more=made.plain(None))))
    )
    found["lists.safetensors"] = made.safetensors(b'{"a":[' + b"[]," * 3_200_000 + b"0]}")
    found["header.safetensors"] = struct.pack("<Q", 2**31) + bytes(100)
    found["deflated.pt"] = made.torch_zip(PICKLED, bytes(100_000_000), zipfile.ZIP_DEFLATED)
    found["deflated.zip"] = made.archive({"a.pt": bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
    return found


@pytest.mark.slow
@linux
def test_bombs_are_refused_within_little_memory(tmp_path, torch):
    names = [put(tmp_path / name, data).name for name, data in bombs().items()]
    script = """
        import json, pathlib, resource, sys, torch
        from esam_jax.convert.formats import tensor_files
        from esam_jax.errors import CheckpointError
        status = lambda key: int(next(
            line.split()[1] for line in open("/proc/self/status") if line.startswith(key)
        )) * 1024
        limit = status("VmSize") + 600 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before, said = status("VmHWM"), {}
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                tensor_files.read(path)
            except CheckpointError as error:
                said[path.name] = str(error)
        print(json.dumps([status("VmHWM") - before, said]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, said = json.loads(done.stdout)
    assert said.keys() == set(names)
    assert not [text for text in said.values() if "Memory" in text or "alloc" in text]
    assert peak < 500 * 2**20


def test_the_memory_of_a_directory_is_bounded(tmp_path, torch):
    members = io.BytesIO()
    with zipfile.ZipFile(members, "w") as file:
        for i in range(400):
            file.writestr("archive/" + f"{i:05d}".ljust(60_000, "x"), b"")
    refused(put(tmp_path / "a.pt", members.getvalue()), "at most 8000000")
