"""TorchScript archives, as OpenAI released CLIP: tensors by name, and no code."""

import pickle
import random

import numpy as np
import pytest
from helpers import fuzzing
from helpers import weight_files as made

from esam_jax.convert.formats import tensor_files
from esam_jax.errors import CheckpointError, EsamError


def module(kind="Net", **attributes):
    """The pickle of a module, its attributes pickled already."""
    items = b"".join(made.plain(name) + value for name, value in attributes.items())
    return f"c__torch__.{kind}\n{kind}\n".encode() + b")\x81}(" + items + b"ub"


def archive(pickled, **more):
    return made.archive(
        {
            "net/data/0": made.VALUES,
            "net/data.pkl": made.PROTOCOL + pickled + made.STOP,
            "net/code/__torch__.py": b"raise SystemExit",
            "net/constants.pkl": b"nobody reads this",
            "net/version": b"3\n",
            **more,
        }
    )


def put(tmp_path, data):
    path = tmp_path / "net.pt"
    path.write_bytes(data)
    return path


def test_tensors_go_by_the_places_of_their_modules(tmp_path):
    inner = module("Inner", weight=made.tensor(), training=b"\x88")
    lists = b"ctorch.jit._pickle\nbuild_intlist\n(]tR"
    whole = module(
        "Net",
        block=module(
            "Block", a=inner, b=module("Inner", bias=made.tensor(shape=(6,), strides=(1,)))
        ),
        scale=made.tensor(offset=5, shape=(), strides=()),
        name=made.plain("CLIP"),
        sizes=lists,
        hook=b"N",
    )
    found = tensor_files.read(put(tmp_path, archive(whole))).tensors
    values = np.frombuffer(made.VALUES, np.float32)
    assert found.keys() == {"block.a.weight", "block.b.bias", "scale"}
    np.testing.assert_array_equal(found["block.a.weight"], values.reshape(2, 3))
    np.testing.assert_array_equal(found["block.b.bias"], values)
    np.testing.assert_array_equal(found["scale"], values[5])


# Two modules, and their one dict of attributes: of many, a file could say that squared.
SHARED = b"c__torch__\nNet\nq\x01)\x81}q\x02(" + made.plain("a") + (b"h\x01)\x81h\x02b" + b"ub")
LOOP = b"c__torch__\nNet\n)\x81q\x01}" + made.plain("self") + b"h\x01sb"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (LOOP, "the module 'self' in several places"),
        (SHARED, "attributes that several modules share"),
        (b"}" + made.plain("w") + made.tensor() + b"s", "without a module"),
        (module(x=b"cos\nsystem\n" + made.plain(("true",)) + b"R"), "refused, .*os.system"),
        (b"c__torch__\nNet\n" + made.plain((1,)) + b"\x81}b", "made of something"),
        (module(x=b"c__torch__\nNet\n" + made.plain(()) + b"R"), "an unexpected call"),
        (module(w=made.tensor(made.storage(values=7))), "another size than the 28 bytes"),
        (pickle.dumps(3, 2)[2:-1], "without a module"),
        (module(**{"a.b": made.tensor()}), "names have no dot"),
        (module(**{"x" * 600: module(**{"y" * 600: made.tensor()})}), "at most 1000 characters"),
    ],
)
def test_hostile_programs_are_refused(tmp_path, pickled, message):
    with pytest.raises(CheckpointError, match=message):
        tensor_files.read(put(tmp_path, archive(pickled)))


def test_damaged_programs_are_refused_or_read(tmp_path):
    """Whatever the pickle says, nothing but an error of the package comes out."""
    rng, refused = random.Random(0), 0
    pickled = module("Net", block=module("Block", a=made.tensor(), b=made.plain([1, "x"])))
    for _ in range(300):
        path = put(tmp_path, archive(fuzzing.altered(pickled, rng)))
        try:
            tensor_files.read(path)
        except EsamError:
            refused += 1
    assert 100 < refused < 300


def test_a_module_is_read_of_a_program_alone(tmp_path):
    plain = made.torch_zip(made.PROTOCOL + module(w=made.tensor()) + made.STOP)
    with pytest.raises(CheckpointError, match=r"is refused, .*__torch__"):
        tensor_files.read(put(tmp_path, plain))


def test_archives_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
            self.register_buffer("input_resolution", torch.tensor(224))
            self.small = torch.nn.Parameter(torch.ones(3).half())

        def forward(self, x):
            return self.layers(x) * self.small.float().sum()

    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(Net(), torch.ones(2, 3))
        torch.jit.save(traced, tmp_path / "net.pt")
    found = tensor_files.read(tmp_path / "net.pt").tensors
    wanted = traced.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), strict=True)
