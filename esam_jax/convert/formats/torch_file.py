"""PyTorch files: checked completely before PyTorch sees them, then read with `weights_only=True`.

PyTorch reads no file that these checks refuse. `torch_pickle` says what a file may
hold. Only this module imports torch.
"""

import dataclasses
import io
import os
import re
import struct
import tarfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from esam_jax.convert.formats import bounds, torch_pickle, zip_file
from esam_jax.convert.formats.torch_pickle import Storage, View
from esam_jax.errors import CheckpointError, MissingError

OLDEST_TORCH = (2, 10)  # before it, weights_only has known holes (CVE-2025-32434, CVE-2026-24747)
WRAPS = ("model", "state_dict")

# A state dict of 600 tensors with optimiser state takes 400 kB. One byte can make an object of 64.
_MOST_PICKLE_BYTES = 2_000_000
_MOST_TIES = 2  # tied tensors are few: all tensors together may be twice as large as the file
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # as torch/serialization.py writes it


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds: `ignored` names what lies beside the state dict `wrapped` in it."""

    tensors: dict[str, np.ndarray]
    wrapped: str | None
    ignored: tuple[str, ...]


def read(path: Path, where: str | None = None) -> Contents:
    """The state dict of a file, bare or under a key of `WRAPS`; `where` is its name in messages.

    The arrays are read-only views of the mapped file, which must not be changed in place while they
    are in use. Files of PyTorch before 1.6 cannot be mapped and are read into memory.
    CheckpointError for all that is not allowed, and when no PyTorch is there that reads safely.
    """
    where = str(path) if where is None else where
    torch = _torch(where)
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\3\4"
            held = _follow_zip(file, where) if zipped else _follow_legacy(file, where)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise MissingError(f"no file at {where!r}") from error
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read ({error}); copy it again") from error
    views, wrapped, ignored = _state(held, size, where)
    try:
        loaded = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=zipped)
        state = loaded if wrapped is None else loaded[wrapped]
        tensors = {name: _to_numpy(torch, state[name]) for name in views}
    except Exception as error:  # torch may raise anything, with advice to turn the checks off
        raise CheckpointError(
            f"{where} is refused by PyTorch ({type(error).__name__}): it is damaged; copy it again"
        ) from error
    for name, view in views.items():
        if (tensors[name].shape, tensors[name].dtype) != (view.shape, view.storage.dtype):
            raise CheckpointError(f"{where}: {bounds.shown(name)} changed while it was read")
    return Contents(tensors, wrapped, ignored)


def write(
    path: str | Path,
    tensors: Mapping[str, Any] | Iterable[tuple[str, Any]],
    wrap: str | None = None,
) -> None:
    """Writes a state dict that PyTorch loads with `weights_only=True`, under the key `wrap` if any.

    Strided views are made contiguous all at once, because PyTorch writes at the end: this may take
    as much memory as the file. Errors as for safetensors.
    """
    torch = _torch(str(path))
    state = {}
    for name, array in bounds.by_name(tensors, f"{path} cannot be written").items():
        array = np.asarray(array)
        if array.dtype not in torch_pickle.STORAGES.values():
            raise CheckpointError(
                f"{path} cannot be written: {bounds.shown(name)} is {array.dtype}, but must be "
                f"one of {', '.join(map(str, torch_pickle.STORAGES.values()))}"
            )
        state[name] = _from_numpy(torch, array)
    with bounds.replacing(Path(path)) as file:
        torch.save(state if wrap is None else {wrap: state}, file)


# ------------------------------------------------------------------------------ before PyTorch


def _follow_zip(file: BinaryIO, where: str) -> Any:
    """What the pickle in a zip file holds, if every storage is a stored member of its size."""
    with zip_file.opened(file, where) as archive:
        members = {info.filename: info for info in archive.infolist()}
        root = next(iter(members), "").split("/")[0]
        if f"{root}/constants.pkl" in members:
            raise CheckpointError(
                f"{where} is a TorchScript program, which may run code: in an environment you "
                "trust, load it with torch.jit.load and save its state_dict()"
            )
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
        held, storages = torch_pickle.follow(io.BytesIO(archive.read(pickled)), where)
        for storage in storages.values():
            member = members.get(f"{root}/data/{storage.key}")
            if member is None or member.file_size != _bytes(storage):
                raise CheckpointError(
                    f"{where}: storage {bounds.shown(storage.key)} is missing or has another size "
                    f"than the {_bytes(storage)} bytes that it should; copy it again"
                )
        return held


def _follow_legacy(file: BinaryIO, where: str) -> Any:
    """The same for files of PyTorch before 1.6: five pickles, then each storage behind its size."""
    file.seek(0)
    start = file.read(_MOST_PICKLE_BYTES)
    if not start.startswith(_LEGACY_MAGIC):
        raise CheckpointError(
            f"{where} was not written by torch.save; nothing in it was run. Copy it again, or "
            "save the state dict with torch.save in an environment you trust"
        )
    _refuse_tar(start, where)
    stream = io.BytesIO(start)
    for _ in ("magic number", "protocol version", "about the machine"):
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
    at = stream.tell()
    for key in keys:
        file.seek(at)
        if file.read(8) != struct.pack("<q", storages[key].values):
            raise odd
        at += 8 + _bytes(storages[key])
    if at != os.fstat(file.fileno()).st_size:
        raise odd
    return held


def _refuse_tar(start: bytes, where: str) -> None:
    """PyTorch takes a file that is a tar archive, too, as its format of 2016."""
    try:
        tarfile.TarInfo.frombuf(start[:512].ljust(512, b"\0"), "ascii", "surrogateescape")
    except tarfile.HeaderError:
        return
    raise CheckpointError(f"{where} is a tar archive of an old PyTorch; save it again")


def _state(held: Any, size: int, where: str) -> tuple[dict[str, View], str | None, tuple[str, ...]]:
    """The tensors by name, the key they lie under, and what lies beside."""
    wrapped, ignored = None, ()
    for key in WRAPS:
        if wrapped is None and isinstance(held, dict) and _has_tensors(held.get(key)):
            wrapped = key
            ignored = tuple(str(other) for other in held if other != key)
    state = held if wrapped is None else held[wrapped]
    if not isinstance(state, dict):
        kind = "tensor" if isinstance(state, View) else type(state).__name__
        raise CheckpointError(
            f"{where} holds a {kind}, but must hold a state dict; save model.state_dict()"
        )
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
    return state, wrapped, ignored


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
            f"reading or writing {where} takes PyTorch: pip install 'esam_jax[convert]', or save "
            "the weights as .safetensors"
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        raise CheckpointError(
            f"PyTorch {torch.__version__} may run code hidden in {where}: upgrade it to "
            f"{'.'.join(map(str, OLDEST_TORCH))} or later"
        )
    return torch


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        raise TypeError("not a dense tensor")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # which torch does not give to NumPy
        array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    else:
        array = tensor.numpy()
    array.flags.writeable = False
    return array


def _from_numpy(torch: Any, array: np.ndarray) -> Any:
    whole = np.ascontiguousarray(array).reshape(array.shape)
    halves = whole.dtype == ml_dtypes.bfloat16
    with warnings.catch_warnings():
        # Of arrays that cannot be written to, as those of a mapped file: nobody writes here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tensor = torch.from_numpy(whole.view(np.int16) if halves else whole)
    return tensor.view(torch.bfloat16) if halves else tensor
