"""Whatever bytes a weight file has: it is read sanely, or refused by an error of ours.

ESAM_FUZZ_EXAMPLES=3000 pytest tests/properties/test_files.py tries that many of each of seven
kinds: a few minutes.
"""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import weight_files as made
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from esam_jax.convert.formats import tensor_files
from esam_jax.errors import CheckpointError, MissingError

fuzz = settings(
    max_examples=int(os.environ.get("ESAM_FUZZ_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def check(path: Path, data: bytes, times: int = 2) -> bool:
    """True if the file was read: the arrays are whole, `times` as large as the file at most."""
    path.write_bytes(data)
    try:
        found = tensor_files.read(path)
    except (CheckpointError, MissingError) as error:
        assert "\n" not in str(error) and len(str(error)) < 800
        return False
    assert sum(x.nbytes for x in found.tensors.values()) <= times * len(data)
    for name, x in found.tensors.items():
        name.encode()
        assert not x.flags.writeable
        assert len(x.tobytes()) == x.nbytes  # every byte can be reached
    return True


# ---------------------------------------------------------------------------------- mutations

places = st.floats(0, 1, exclude_max=True)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), places, st.integers(0, 7)),
        st.tuples(
            st.just("set"), places, st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80", b"9"])
        ),
        st.tuples(st.just("cut"), places, places),
        st.tuples(st.just("end"), places, st.none()),
        st.tuples(st.just("insert"), places, st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("again"), places, st.integers(1, 60)),
    ),
    max_size=3,
)


def changed(data: bytes, how: list[tuple]) -> bytes:
    for kind, place, value in how:
        at = int(place * len(data))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ 1 << value]) + data[at + 1 :]
        elif kind == "set":
            data = data[:at] + value + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + 1 + int(value * 20) :]
        elif kind == "end":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + value + data[at:]
        elif kind == "again":
            data = data[:at] + data[at : at + value] + data[at:]
    return data


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": made.entry(0, 8),
    "b": made.entry(8, 20, [3, 2], "BF16"),
    "empty": made.entry(20, 20, [0, 3]),
    "count": made.entry(20, 28, [], "I64"),
}
HEADER_TEXT = json.dumps(HEADER, separators=(",", ":")).encode()
TENSORS = made.tensor(), made.tensor(shape=(3,), strides=(2,))
PICKLE = made.state(
    model=made.plain({})[:1] + b"".join(made.plain(n) + t + b"s" for n, t in zip("ab", TENSORS)),
    lr=made.plain(0.1),
    order=made.plain([1, (2, 3)]),
)
LEGACY = made.torch_legacy(made.state(a=made.tensor(made.storage(more=made.plain(None)))))
ZIP = made.torch_zip(PICKLE)
OUTER = made.archive({"weights/a.pt": ZIP, "read me": b"hello"}, zipfile.ZIP_DEFLATED)


def test_the_seeds_are_read(folder, torch):
    assert check(folder / "a.safetensors", made.safetensors(HEADER_TEXT, bytes(28)))
    for name, data in (("a.pt", ZIP), ("b.pt", LEGACY), ("a.zip", OUTER)):
        assert check(folder / name, data), name


@fuzz
@given(changes, st.booleans())
def test_changed_safetensors(folder, how, in_header):
    """Within the header its length stays right, so that the rules behind it are reached."""
    if in_header:
        data = made.safetensors(changed(HEADER_TEXT, how), bytes(28))
    else:
        data = changed(made.safetensors(HEADER_TEXT, bytes(28)), how)
    check(folder / "a.safetensors", data)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just(2**64)
)
few = st.integers(-1, 40)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I64", "U8", "BOOL", "F8", "f32"]) | scalars,
        "shape": st.lists(few, max_size=4) | st.lists(scalars, max_size=40) | scalars,
        "data_offsets": st.lists(few, min_size=2, max_size=2) | scalars,
    },
    optional={"x": scalars},
)
headers = st.recursive(
    scalars | entries,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@fuzz
@given(
    st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), entries | headers, max_size=4),
    st.binary(max_size=64),
)
@example({"a": made.entry(0, 4), "b": made.entry(4, 4, [2, 0])}, bytes(4))
def test_random_headers(folder, header, body):
    check(folder / "a.safetensors", made.safetensors(header, body))


@given(
    st.lists(st.tuples(st.sampled_from(["F32", "I64", "U8", "F16"]), st.lists(st.integers(0, 3))))
)
def test_right_headers_are_read(folder, kinds):
    header, end = {}, 0
    for i, (dtype, shape) in enumerate(kinds):
        shape = shape[:4]
        size = {"F32": 4, "I64": 8, "U8": 1, "F16": 2}[dtype]
        header[str(i)] = made.entry(end, end := end + size * int(np.prod(shape, dtype=int)), shape)
        header[str(i)]["dtype"] = dtype
    assert check(folder / "a.safetensors", made.safetensors(header, bytes(end)))


@fuzz
@given(changes)
def test_changed_indexes(folder, how):
    body = {"one": made.safetensors({"a": made.entry(0, 4)}, bytes(4)),
            "two": made.safetensors({"b": made.entry(0, 8)}, bytes(8))}  # fmt: skip
    index = made.shards(folder, {"a": "one.safetensors", "b": "two.safetensors"}, **body)
    check(index, changed(index.read_bytes(), how))


@fuzz
@given(changes, st.booleans())
def test_changed_torch_files(folder, torch, how, in_pickle):
    """A changed pickle gets a fresh checksum, so that the rules behind it are reached."""
    data = made.torch_zip(changed(PICKLE, how)) if in_pickle else changed(ZIP, how)
    check(folder / "a.pt", data)


@fuzz
@given(changes, st.booleans())
def test_changed_old_and_zipped_torch_files(folder, torch, how, old):
    if old:
        check(folder / "a.pt", changed(LEGACY, how))
    else:
        check(folder / "a.zip", changed(OUTER, how), times=20)


words = st.one_of(
    st.sampled_from([
        b"}", b"]", b")", b"(", b"N", b"\x88", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s",
        b"u", b"R", b"b", b"Q", b"q\1", b"h\1", b"0", b"2", b"\x81", made.ORDERED_DICT,
        made.storage(), made.storage("1", 7, "LongStorage"), made.plain("model"), made.plain("w"),
        made.PROTOCOL,
        made.plain("w") + made.tensor() + b"s", b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\nbytearray\n",
        b"ctorch\nFloatStorage\n",
    ]),
    st.builds(
        made.tensor,
        offset=st.integers(-1, 8),
        shape=st.lists(st.integers(-1, 4), max_size=3).map(tuple),
        strides=st.lists(st.integers(-1, 4), max_size=3).map(tuple),
    ),
    st.builds(made.plain, scalars | st.lists(scalars, max_size=2) | st.just((2, 3))),
)  # fmt: skip


@fuzz
@given(st.lists(words, max_size=12), st.booleans())
def test_random_pickles(folder, torch, program, in_dict):
    body = b"".join(program)
    pickled = made.PROTOCOL + (b"}" + made.plain("w") if in_dict else b"") + body
    check(folder / "a.pt", made.torch_zip(pickled + (b"s" if in_dict else b"") + made.STOP))


@fuzz
@given(
    st.lists(
        st.tuples(
            st.integers(0, 7), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), max_size=3)
        ),
        max_size=4,
    )
)
def test_views_are_what_torch_makes_of_them(folder, torch, views):
    """Those that lie in their storage are read, with the values that arithmetic says."""
    block = np.frombuffer(made.VALUES, np.float32)
    values, wanted = {}, {}
    for i, (offset, axes) in enumerate(views):
        shape, strides = tuple(n for n, _ in axes), tuple(step for _, step in axes)
        flat = [offset + int(np.dot(at, strides)) for at in np.ndindex(*shape)]
        if len(flat) <= 6 and max(flat, default=offset - 1) < 6:
            values[f"w{i}"] = made.tensor(offset=offset, shape=shape, strides=strides)
            wanted[f"w{i}"] = block[flat].reshape(shape)
    data = made.torch_zip(made.state(**values))
    if sum(x.nbytes for x in wanted.values()) <= 2 * len(data):
        assert check(folder / "a.pt", data)
        found = tensor_files.read(folder / "a.pt").tensors
        for name, x in wanted.items():
            np.testing.assert_array_equal(found[name], x)
