"""What the pickle in a PyTorch file would build, worked out without building it.

A pickle is a program. PyTorch's own reader (`weights_only=True`) runs no foreign code, but it does
what the file says: it allocates a storage or a bytearray of any size, grows a storage to fit a
view, or crashes on a key that is nested too deeply. It also refuses files for what lies beside the
weights, and all protocols but 2. So the pickle is followed here with plain Python values, and
nobody else ever loads it. Allowed is what `torch.save` writes, in protocols 2 to 5, for state dicts
and for the training state that scripts save beside them:

- None, booleans, numbers, texts, tuples, lists, dicts and OrderedDicts whose keys are texts or
  whole numbers, no key twice;
- `torch._utils._rebuild_tensor_v2` and `_rebuild_parameter` on a storage of a type in `STORAGES`,
  for a view that lies inside its storage and claims no more values than it has, without hooks;
- the attribute `_metadata` of an OrderedDict, and the dtypes in `STORAGES` as plain values;
- in a TorchScript program, the modules that it saves, each as its attributes alone, whatever its
  class is called, and lists of numbers as an `Opaque`: nobody looks at the code;
- objects of the classes in `_BESIDE`, such as argparse.Namespace, which scripts like to save as
  "args": each becomes an `Opaque`, and whatever the file would do to it is passed over.

Any other name or instruction is refused: other classes, functions, sparse, quantised and nested
tensors, sets. Opcodes: CPython's pickletools; layout: torch/serialization.py, torch/_utils.py.
"""

import collections
import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from esam_jax.convert.formats import bounds
from esam_jax.errors import CheckpointError

STORAGES = {
    name: np.dtype(kind)
    for name, kind in {
        "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": ml_dtypes.bfloat16,
        "DoubleStorage": "<f8", "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2",
        "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
    }.items()
}  # fmt: skip
_DTYPE_NAMES = {f"torch {dtype.name}" for dtype in STORAGES.values()}
_ORDERED_DICT = "collections OrderedDict"
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_GLOBALS = {_ORDERED_DICT, _TENSOR, _PARAMETER, *_DTYPE_NAMES} | {f"torch {s}" for s in STORAGES}

# What holds settings and results of a training script; a name that ends in a dot is a package.
_BESIDE = (
    "argparse Namespace", "types SimpleNamespace", "_codecs encode",
    "collections defaultdict", "collections Counter", "collections deque",
    "pathlib PosixPath", "pathlib WindowsPath", "pathlib PurePosixPath", "pathlib Path",
    "pathlib._local PosixPath", "pathlib._local WindowsPath", "pathlib._local PurePosixPath",
    "datetime datetime", "datetime timedelta", "datetime date",
    "numpy dtype", "numpy ndarray", "numpy.core.multiarray scalar", "numpy._core.multiarray scalar",
    "numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct",
    "numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer",
    "torch Size", "torch device", "yacs.config CfgNode", "easydict EasyDict", "addict.addict Dict",
    "omegaconf.", "lightning.fabric.utilities.data AttributeDict",
    "lightning_fabric.utilities.data AttributeDict",
    "pytorch_lightning.utilities.parsing AttributeDict",
    *(f"{module} {kind}" for module in ("builtins", "__builtin__")
      for kind in ("list", "dict", "int", "float", "str")),
)  # fmt: skip


# Of TorchScript (torch/csrc/jit/serialization): what it calls on lists, and where classes stand.
_LISTS = "torch.jit._pickle "
_MODULES = ("__torch__ ", "__torch__.")
_LONGEST_NAME = 1000


@dataclasses.dataclass(frozen=True)
class Storage:
    """One block of `values` numbers; `key` is its name in the file."""

    key: str
    dtype: np.dtype
    values: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: a strided view of a storage, all counted in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    values: int


@dataclasses.dataclass(frozen=True)
class Opaque:
    """An object that was not built; `name` is that of its class."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


class Module(dict[str, Any]):
    """The attributes of one module of a TorchScript program."""


def follow(
    stream: io.BytesIO, where: str, more_in_key: int = 0, *, program: bool = False
) -> tuple[Any, dict[str, Storage]]:
    """The object of one pickle, tensors as `View`, and its storages by key.

    A storage is named by a tuple of five entries in zip files and `more_in_key` more in older
    ones. The object of a TorchScript `program` may be a `Module`. CheckpointError for whatever is
    not allowed; the stream stands behind the pickle then.
    """
    machine = _Machine(where, more_in_key, program)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.stack.pop(), machine.storages
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle fails anywhere: stack, memo, text, number
        raise CheckpointError(
            f"{where} holds a damaged pickle ({bounds.reason(error)}); copy it again"
        ) from error


def tensors(module: Any, where: str) -> dict[str, View]:
    """Every tensor of a TorchScript module, as its state dict names it: "layer.0.weight".

    CheckpointError for what is no module, for one that stands in two places and for a name that no
    network has: a file of a megabyte can say one of a megabyte for each of its tensors.
    """
    if not isinstance(module, Module):
        raise CheckpointError(f"{where} is a TorchScript program without a module; copy it again")
    found: dict[str, View] = {}
    seen, waiting = {id(module)}, [("", module)]
    while waiting:
        prefix, at = waiting.pop()
        for name, value in at.items():
            if "." in name or len(prefix) + len(name) > _LONGEST_NAME:
                raise CheckpointError(
                    f"{where} has an attribute {bounds.shown(name)}, but names have no dot, and at "
                    f"most {_LONGEST_NAME} characters with those of the modules around them"
                )
            if isinstance(value, View):
                found[prefix + name] = value
            elif isinstance(value, Module):
                if id(value) in seen:
                    raise CheckpointError(
                        f"{where} has the module {bounds.shown(prefix + name)} in several places: "
                        "in an environment you trust, load it with torch.jit.load and save its "
                        "state_dict()"
                    )
                seen.add(id(value))
                waiting.append((f"{prefix}{name}.", value))
    return found


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict,
}  # fmt: skip
_NUMBERS_AND_TEXTS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BYTEARRAY8"}
_PROTOCOLS = range(2, 6)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The pickle machine as torch/_weights_only_unpickler.py has it: a stack of stacks, a memo."""

    def __init__(self, where: str, more_in_key: int, program: bool) -> None:
        self.where, self.key_length, self.program = where, 5 + more_in_key, program
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.taken: dict[int, Any] = {}  # attributes of modules by id, kept so that ids stay theirs

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _NUMBERS_AND_TEXTS:
            stack.append(argument)
        elif opcode in _BYTES:
            stack.append(Opaque("bytes"))
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            if not (type(module) is str and type(name) is str):
                raise self._refusal("a name that is not text")
            stack.append(self._global(f"{module} {name}"))
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode]())
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif opcode in _TUPLES:
            items = [stack.pop() for _ in range(_TUPLES[opcode])]
            stack.append(tuple(reversed(items)))
        elif opcode == "TUPLE":
            items = self._to_mark()
            self.stack.append(tuple(items))
        elif opcode in ("APPEND", "APPENDS"):
            items = self._to_mark() if opcode == "APPENDS" else [stack.pop()]
            if not isinstance(self.stack[-1], Opaque):
                self._top(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if opcode == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            self._set_items(items)
        elif opcode == "GLOBAL":
            stack.append(self._global(argument))
        elif opcode == "REDUCE" or (opcode == "NEWOBJ" and isinstance(stack[-2], Opaque)):
            arguments = stack.pop()
            stack[-1] = self._reduce(stack[-1], arguments)
        elif opcode == "NEWOBJ" and self._is_module(stack[-2]):
            if stack.pop() != ():
                raise self._refusal("a module that is made of something")
            stack[-1] = Module()
        elif opcode == "BUILD":
            self._build(stack.pop())
        elif opcode == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif opcode == "PROTO":
            if argument not in _PROTOCOLS:
                raise self._refusal(f"pickle protocol {argument} instead of 2 to 5")
        elif opcode not in ("FRAME", "STOP"):
            raise self._refusal(f"the pickle instruction {opcode}")

    def _build(self, state: Any) -> None:
        """Sets attributes of what lies on top."""
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if type(target) is Module and type(state) is dict:
            # A file of a megabyte can say many modules with the same many attributes.
            if id(state) in self.taken:
                raise self._refusal("attributes that several modules share")
            self.taken[id(state)] = state
            target.update({name: x for name, x in state.items() if type(name) is str})
            return
        self._top(collections.OrderedDict)
        # Torch would set any attribute, "items" among them.
        if type(state) is not dict or state.keys() - {"_metadata"}:
            raise self._refusal("attributes of an OrderedDict")
        vars(target).update(state)

    def _refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where} is refused, and nothing in it was run: it holds {what}, which no state "
            "dict needs; in an environment you trust, load it and save the state dict alone"
        )

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise self._refusal(f"a change to a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if type(target) not in (dict, collections.OrderedDict):
            raise self._refusal(f"a change to a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a tuple that is nested a million times would crash Python, and torch with it.
            if type(key) not in (str, int):
                raise self._refusal(f"a dict key that is {bounds.shown(key)}")
            if key in target:
                raise CheckpointError(
                    f"{self.where} names {bounds.shown(key)} more than once; save it again"
                )
            target[key] = value

    def _is_module(self, found: Any) -> bool:
        return isinstance(found, _Global) and found.name.startswith(_MODULES)

    def _global(self, name: str) -> "_Global | Opaque":
        if self.program and name.startswith(_MODULES):
            return _Global(name)
        if self.program and name.startswith(_LISTS):
            return Opaque(name.replace(" ", "."))
        if name in _BESIDE or any(name.startswith(x) for x in _BESIDE if x.endswith(".")):
            return Opaque(name.replace(" ", "."))
        if name not in _GLOBALS:
            raise self._refusal(bounds.shown(name.replace(" ", ".")).strip("'"))
        return _Global(name)

    def _reduce(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Opaque):
            return function
        name = function.name if isinstance(function, _Global) else ""
        if name == _ORDERED_DICT and arguments == ():
            return collections.OrderedDict()
        if name == _TENSOR and type(arguments) is tuple and len(arguments) in (6, 7):
            storage, offset, shape, strides, needs_gradient, hooks, *metadata = arguments
            if self._is_plain(needs_gradient, hooks) and all(x in (None, {}) for x in metadata):
                return self._view(storage, offset, shape, strides)
        if name == _PARAMETER and type(arguments) is tuple and len(arguments) == 3:
            view, needs_gradient, hooks = arguments
            if isinstance(view, View) and self._is_plain(needs_gradient, hooks):
                return view
        raise self._refusal(
            f"an unexpected call of {name.replace(' ', '.') or 'something that is not a function'}"
        )

    def _is_plain(self, needs_gradient: Any, hooks: Any) -> bool:
        no_hooks = type(hooks) is collections.OrderedDict and not hooks
        return type(needs_gradient) is bool and no_hooks

    def _storage(self, key: Any) -> Storage:
        if type(key) is not tuple or len(key) != self.key_length:
            raise self._refusal("an unexpected reference to a storage")
        kind, storage_type, name, device, values, *rest = key
        dtype = STORAGES.get(getattr(storage_type, "name", "").removeprefix("torch "))
        if (
            kind != "storage"
            or not isinstance(storage_type, _Global)
            or dtype is None
            or not (type(name) is str and type(device) is str)
            or any(x is not None for x in rest)
        ):
            raise self._refusal("an unexpected reference to a storage")
        bounds.count([values], f"{self.where}: storage {bounds.shown(name)}")
        storage = Storage(name, dtype, values)
        if self.storages.setdefault(name, storage) != storage:
            raise self._refusal(f"two different storages {bounds.shown(name)}")
        return storage

    def _view(self, storage: Any, offset: Any, shape: Any, strides: Any) -> View:
        if not isinstance(storage, Storage):
            raise self._refusal("a tensor without a storage")
        where = f"{self.where}: a tensor in storage {bounds.shown(storage.key)}"
        values = bounds.count(shape, where)
        if type(strides) is not tuple or len(strides) != len(shape):
            raise CheckpointError(f"{where} has not one stride for each dimension; save it again")
        bounds.count([offset], where)
        for stride in strides:
            bounds.count([stride], where)
        steps = (step * (size - 1) for step, size in zip(strides, shape, strict=True))
        reach = offset + (sum(steps) + 1 if values else 0)
        # Stride 0 makes terabytes of one number; torch grows a storage that is too small.
        if max(reach, values) > storage.values:
            raise CheckpointError(
                f"{where} takes {values} values up to {reach}, but the storage has "
                f"{storage.values}; copy or save it again"
            )
        return View(storage, offset, shape, strides, values)
