"""PyTorch files: followed and checked completely, then mapped; nothing in them is ever built.

Of a TorchScript program, as OpenAI released CLIP, the tensors are read and nothing else.

`torch_pickle` says what a file may hold, and where its tensors lie; they are views of the mapped
file. PyTorch itself is needed for writing alone. Only this module imports torch.
"""

import collections
import dataclasses
import io
import mmap
import os
import struct
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from esam_jax import files
from esam_jax.convert.formats import bounds, choices, torch_pickle, zip_file
from esam_jax.convert.formats.choices import Weights
from esam_jax.convert.formats.torch_pickle import Opaque, Storage, View
from esam_jax.errors import CheckpointError, MissingError

# Keys under which training scripts keep a state dict, in the order in which they are tried.
WRAPS = ("model", "state_dict", "model_state_dict", "module", "net", "network")

# A state dict of 600 tensors with optimiser state takes 400 kB. One byte can make an object of 64.
_MOST_PICKLE_BYTES = 2_000_000
_MOST_TIES = 2  # tied tensors are few: all tensors together may be twice as large as the file
_OURS = "esam_jax"  # stands among the names of modules in `_metadata`
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle, as torch/serialization.py writes it


Places = dict[str, int]  # key of a storage -> its first byte in the file


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds: `ignored` names what lies beside the state dict `wrapped` in it.

    `passed_over` is the key of other weights of the same model: trained beside averaged ones.
    `metadata` is what `write` was given.
    """

    tensors: dict[str, np.ndarray]
    wrapped: str | None
    ignored: tuple[str, ...]
    passed_over: str | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read(path: Path, where: str | None = None, weights: Weights | None = None) -> Contents:
    """The state dict of a file, bare or under a key; `where` is its name in messages.

    `weights` picks one where averaged weights lie beside others. The arrays are read-only views of
    the mapped file, which must not be changed in place while they are in use. CheckpointError for
    all that is not allowed.
    """
    where = str(path) if where is None else where
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
            held, places = _follow_zip(file, where) if zipped else _follow_legacy(file, where)
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise MissingError(f"no file at {where!r}") from error
    except OSError as error:
        raise files.refusal(error) or CheckpointError(
            f"{where} cannot be read ({error}); copy it again"
        ) from error
    state, wrapped, passed_over = _chosen(held, weights, where)
    _check_state(state, size, where)
    return Contents(
        {name: _array(mapped, places, view) for name, view in state.items()},
        wrapped,
        () if wrapped is None else tuple(_beside(held, wrapped, passed_over)),
        passed_over,
        _metadata(state),
    )


def write(
    path: str | Path,
    tensors: Mapping[str, Any] | Iterable[tuple[str, Any]],
    wrap: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a state dict that PyTorch loads with `weights_only=True`, under the key `wrap` if any.

    `metadata` goes to an attribute of the state dict that a strict `load_state_dict` disregards.
    Strided views are made contiguous all at once, because PyTorch writes at the end: this may take
    as much memory as the file. Errors as for safetensors.
    """
    torch = _torch(str(path))
    state: dict[str, Any] = {}
    for name, array in bounds.by_name(tensors, f"{path} cannot be written").items():
        array = np.asarray(array)
        if array.dtype not in torch_pickle.STORAGES.values():
            raise CheckpointError(
                f"{path} cannot be written: {bounds.shown(name)} is {array.dtype}, but must be "
                f"one of {', '.join(map(str, torch_pickle.STORAGES.values()))}"
            )
        state[name] = _from_numpy(torch, array)
    if metadata:
        state = collections.OrderedDict(state)
        vars(state)["_metadata"] = collections.OrderedDict({_OURS: dict(metadata)})
    with bounds.replacing(Path(path)) as file:
        torch.save(state if wrap is None else {wrap: state}, file)


# ------------------------------------------------------------------------------ the two formats


def _follow_zip(file: BinaryIO, where: str) -> tuple[Any, Places]:
    """What the pickle in a zip file holds, if every storage is a stored member of its size."""
    places: Places = {}
    with zip_file.opened(file, where) as archive:
        members = {info.filename: info for info in archive.infolist()}
        root = next(iter(members), "").split("/")[0]
        program = f"{root}/constants.pkl" in members  # of TorchScript, whose code is left alone
        if program:
            saved = (f"{root}/data.pkl", f"{root}/data/", f"{root}/byteorder")
            members = {name: x for name, x in members.items() if name.startswith(saved)}
        pickled = members.get(f"{root}/data.pkl")
        if pickled is None or not all(name.startswith(f"{root}/") for name in members):
            raise CheckpointError(
                f"{where} was not written by torch.save: it must hold one folder with a data.pkl"
            )
        for info in members.values():
            if info.compress_type != 0 or info.file_size != info.compress_size:
                raise CheckpointError(
                    f"{where}: member {bounds.shown(info.filename)} is compressed, as torch.save "
                    "never does; save it again"
                )
        if pickled.file_size > _MOST_PICKLE_BYTES:
            raise CheckpointError(_too_long(where, pickled.file_size))
        order = members.get(f"{root}/byteorder")
        if order is not None and (order.file_size > 8 or archive.read(order) != b"little"):
            raise CheckpointError(
                f"{where} is not little-endian; save it again on a common machine"
            )
        stream = io.BytesIO(archive.read(pickled))
        held, storages = torch_pickle.follow(stream, where, program=program)
        if program:
            held = torch_pickle.tensors(held, where)
        for storage in storages.values():
            member = members.get(f"{root}/data/{storage.key}")
            if member is None or member.file_size != _bytes(storage):
                raise CheckpointError(
                    f"{where}: storage {bounds.shown(storage.key)} is missing or has another size "
                    f"than the {_bytes(storage)} bytes that it should; copy it again"
                )
            places[storage.key] = zip_file.first_byte(file, member, where)
        return held, places


def _follow_legacy(file: BinaryIO, where: str) -> tuple[Any, Places]:
    """The same for files of PyTorch before 1.6: five pickles, then each storage behind its size."""
    file.seek(0)
    start = file.read(_MOST_PICKLE_BYTES)
    _refuse_tar(start, where)
    stream = io.BytesIO(start)
    if not _has_magic(stream, where):
        raise CheckpointError(
            f"{where} was not written by torch.save; nothing in it was run. Copy it again, or "
            "save the state dict with torch.save in an environment you trust"
        )
    about = None
    for _ in ("protocol version", "about the machine"):
        about, _ = torch_pickle.follow(stream, where)
    if type(about) is not dict or about.get("little_endian") is not True:
        raise CheckpointError(f"{where} is not little-endian; save it again on a common machine")
    held, storages = torch_pickle.follow(stream, where, more_in_key=1)
    keys, _ = torch_pickle.follow(stream, where)
    if stream.tell() == _MOST_PICKLE_BYTES:
        raise CheckpointError(_too_long(where, _MOST_PICKLE_BYTES))
    odd = CheckpointError(f"{where} does not hold the storages that it names; copy it again")
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise odd
    if len(set(keys)) < len(keys) or set(keys) != storages.keys():
        raise odd
    places, at = {}, stream.tell()
    for key in keys:
        file.seek(at)
        if file.read(8) != struct.pack("<q", storages[key].values):
            raise odd
        places[key] = at + 8
        at += 8 + _bytes(storages[key])
    if at != os.fstat(file.fileno()).st_size:
        raise odd
    return held, places


def _has_magic(stream: io.BytesIO, where: str) -> bool:
    try:
        return torch_pickle.follow(stream, where)[0] == _LEGACY_MAGIC
    except CheckpointError:
        return False


def _refuse_tar(start: bytes, where: str) -> None:
    """A file that PyTorch takes for its format of 2016, and another reader for another."""
    try:
        tarfile.TarInfo.frombuf(start[:512].ljust(512, b"\0"), "ascii", "surrogateescape")
    except tarfile.HeaderError:
        return
    raise CheckpointError(f"{where} is a tar archive of an old PyTorch; save it again")


def _array(mapped: mmap.mmap, places: Places, view: View) -> np.ndarray:
    """The view as an array; that it lies inside its storage has been checked."""
    dtype = view.storage.dtype
    if not view.values:
        array = np.zeros(view.shape, dtype)
        array.flags.writeable = False
        return array
    start = places[view.storage.key] + view.offset * dtype.itemsize
    flat = np.frombuffer(mapped, dtype, view.storage.values - view.offset, start)
    strides = [step * dtype.itemsize for step in view.strides]
    return np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)


# ------------------------------------------------------------------------------ the state dict


def _chosen(
    held: Any, weights: Weights | None, where: str
) -> tuple[dict[Any, Any], str | None, str | None]:
    """The state dict, the key that it lies under, and that of other weights of the same model."""
    sets = _sets(held)
    known = [key for key in sets if key.split(".")[0] in WRAPS or choices.is_averaged(key)]
    if known or (len(sets) == 1 and not _has_tensors(held)):
        known.sort(key=lambda key: WRAPS.index(key) if key in WRAPS else len(WRAPS))
        key, passed_over = choices.choose(known or [*sets], weights)
        return sets[key], key, passed_over
    if isinstance(held, dict) and (_has_tensors(held) or not sets):
        return held, None, None
    if sets:
        raise CheckpointError(
            f"{where} holds several sets of tensors ({bounds.listed(sets)}), and none is called "
            f"{', '.join(WRAPS)}: save the state dict alone"
        )
    kind = {View: "tensor", Opaque: getattr(held, "name", "")}.get(type(held), type(held).__name__)
    raise CheckpointError(
        f"{where} holds a {kind}, but must hold a state dict; save model.state_dict()"
    )


def _sets(held: Any) -> dict[str, dict[Any, Any]]:
    """Every dict of tensors under a key of the file, or under a usual one below that."""
    found = {}
    # By id, as a file of a megabyte can hold one large dict under a hundred thousand keys.
    seen: dict[int, bool] = {}

    def has_tensors(value: Any) -> bool:
        if id(value) not in seen:
            seen[id(value)] = _has_tensors(value)
        return seen[id(value)]

    for key, value in held.items() if isinstance(held, dict) else ():
        if not (isinstance(key, str) and isinstance(value, dict)):
            continue
        if has_tensors(value):
            found[key] = value
            continue
        for inner in WRAPS:
            if has_tensors(value.get(inner)):
                found.setdefault(f"{key}.{inner}", value[inner])
    return found


def _beside(held: dict[Any, Any], wrapped: str, passed_over: str | None) -> Iterator[str]:
    """Names of what lies beside the state dict, with the class of what was not built."""
    taken = {key.split(".")[0] for key in (wrapped, passed_over) if key is not None}
    for key, value in held.items():
        if key not in taken:
            kind = f" ({value.name})" if isinstance(value, Opaque) else ""
            yield f"{key}{kind}"


def _check_state(state: dict[Any, Any], size: int, where: str) -> None:
    odd = [name for name, x in state.items() if not (isinstance(name, str) and isinstance(x, View))]
    if odd:
        raise CheckpointError(
            f"{where} holds values that are not tensors: {bounds.listed(odd)}; "
            "save model.state_dict()"
        )
    for name in state:
        bounds.check_name(name, where)
    total = sum(view.values * view.storage.dtype.itemsize for view in state.values())
    if total > _MOST_TIES * size:
        raise CheckpointError(
            f"{where} claims {total} bytes of tensors, but has {size}; tied tensors may make that "
            f"{_MOST_TIES} times as many, so save it again"
        )


def _metadata(state: dict[Any, Any]) -> dict[str, str]:
    """The texts that `write` put beside the versions of modules."""
    modules = getattr(state, "_metadata", None)
    ours = modules.get(_OURS) if isinstance(modules, dict) else None
    pairs = ours.items() if isinstance(ours, dict) else ()
    return {key: text for key, text in pairs if isinstance(key, str) and isinstance(text, str)}


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(x, View) for x in value.values())


def _bytes(storage: Storage) -> int:
    return storage.values * storage.dtype.itemsize


def _too_long(where: str, size: int) -> str:
    return (
        f"{where} has a pickle of {size} bytes; at most {_MOST_PICKLE_BYTES} are read, which is "
        "enough for 5,000 tensors: save the state dict alone"
    )


# ------------------------------------------------------------------------------------- PyTorch


def _torch(where: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"writing {where} needs PyTorch: pip install 'esam_jax[convert]', or write .safetensors"
        ) from error
    return torch


def _from_numpy(torch: Any, array: np.ndarray) -> Any:
    whole = np.ascontiguousarray(array).reshape(array.shape)
    halves = whole.dtype == ml_dtypes.bfloat16
    with warnings.catch_warnings():
        # Of arrays that cannot be written to, as those of a mapped file: nobody writes here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tensor = torch.from_numpy(whole.view(np.int16) if halves else whole)
    return tensor.view(torch.bfloat16) if halves else tensor
