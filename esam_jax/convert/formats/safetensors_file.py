"""Safetensors files: a strict reader that copies nothing, and a writer that copies one tensor.

The format's own library is not used: it reads copies, writes from copies, and keeps one of two
tensors of the same name without a word. Format: github.com/huggingface/safetensors, README.
"""

import collections
import json
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from esam_jax import files
from esam_jax.convert.formats import bounds
from esam_jax.errors import CheckpointError, MissingError

# In the order in which the library lays tensors out (backwards), so that files come out alike.
DTYPES = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2",
        "BF16": ml_dtypes.bfloat16, "I32": "<i4", "U32": "<u4", "F32": "<f4", "F64": "<f8",
        "I64": "<i8", "U64": "<u8",
    }.items()
}  # fmt: skip
_CODES = {dtype: name for name, dtype in DTYPES.items()}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors, as read-only views of the mapped file, and the metadata.

    The file must not be changed in place while they are in use (to replace it is fine). Refused
    with CheckpointError is every file of which two readers could think differently: a name that
    stands twice, tensors that overlap or leave a hole, bytes behind the last one, an unknown
    dtype, a shape that does not fill its bytes.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _read_header(file.read(8), size, file.read, str(path))
            start = file.tell()
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise MissingError(f"no file at {str(path)!r}") from error
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # ValueError: it has become shorter meanwhile
        raise files.refusal(error) or CheckpointError(
            f"{path} cannot be read ({error}); copy it again"
        ) from error
    metadata = _metadata(header.pop("__metadata__", {}), str(path))
    entries = _entries(header, size - start, str(path))
    return {
        name: np.frombuffer(mapped, dtype, values, start + first).reshape(shape)
        for name, (dtype, shape, values, first) in entries.items()
    }, metadata


def write(
    path: str | Path,
    tensors: Mapping[str, Any] | Iterable[tuple[str, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes what `safetensors.numpy.save_file` would, one tensor after the other.

    Only the one being written is made contiguous (or fetched from a device), so a model of strided
    views takes little memory. The file appears complete, or not at all.
    CheckpointError for two tensors of one name or a dtype that the format lacks, MissingError when
    it cannot be written.
    """
    arrays = bounds.by_name(tensors, f"{path} cannot be written")
    order = list(DTYPES)
    for name, array in arrays.items():
        if np.dtype(array.dtype) not in _CODES or name == "__metadata__":
            raise CheckpointError(
                f"{path} cannot be written: the format has no {array.dtype} tensor "
                f"{bounds.shown(name)}; it has {', '.join(map(str, DTYPES.values()))}"
            )
    codes = {name: _CODES[np.dtype(array.dtype)] for name, array in arrays.items()}
    names = sorted(arrays, key=lambda name: (-order.index(codes[name]), name.encode()))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].size * DTYPES[codes[name]].itemsize
        shape = list(arrays[name].shape)
        header[name] = {"dtype": codes[name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with bounds.replacing(Path(path)) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            # As bytes, because bfloat16 is unknown to Python's buffers.
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


# ---------------------------------------------------------------------------------- the header


def _read_header(first: bytes, size: int, read: Any, where: str) -> dict[str, Any]:
    if len(first) < 8:
        raise CheckpointError(
            f"{where} is not a complete safetensors file ({size} bytes); copy it again"
        )
    (length,) = struct.unpack("<Q", first)
    # Before anything is read: a file may claim any length.
    if length > min(size - 8, bounds.MOST_HEADER_BYTES):
        raise CheckpointError(
            f"{where} is not a complete safetensors file: it claims a header of {length} bytes, "
            f"but has {size - 8} and may have {bounds.MOST_HEADER_BYTES}; copy it again"
        )
    return parse_json(read(length), f"the header of {where}")


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object in which no name stands twice, at any depth."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = collections.Counter(name for name, _ in pairs)
            doubled = bounds.listed(name for name, times in counts.items() if times > 1)
            raise CheckpointError(f"{where} names {doubled} more than once; convert it again")
        return found

    if not text.startswith(b"{"):
        raise CheckpointError(f"{where} is not a JSON object; copy it again")
    try:
        return json.loads(text.decode(), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where} is not JSON ({bounds.reason(error)}); copy it again"
        ) from error


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(x, str) for x in value.values()):
        raise CheckpointError(f"{where}: __metadata__ must be an object of texts; convert it again")
    return value


_Entry = tuple[np.dtype, tuple[int, ...], int, int]  # dtype, shape, values, first byte


def _entries(header: dict[str, Any], body: int, where: str) -> dict[str, _Entry]:
    """Each tensor's place in the `body` bytes, which they must fill in a row."""
    spans, entries = [], {}
    for name, entry in header.items():
        bounds.check_name(name, where)
        at = f"{where}: tensor {bounds.shown(name)}"
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise CheckpointError(f"{at} must have dtype, shape and data_offsets, nothing else")
        code, offsets = entry["dtype"], entry["data_offsets"]
        if not isinstance(code, str) or code not in DTYPES:
            raise CheckpointError(
                f"{at} has dtype {bounds.shown(code)}, but must have one of {', '.join(DTYPES)}"
            )
        values = bounds.count(entry["shape"], at)
        if not (
            isinstance(offsets, list) and len(offsets) == 2 and all(type(x) is int for x in offsets)
        ):
            raise CheckpointError(f"{at}: data_offsets must be two integers")
        first, end = offsets
        if not 0 <= first <= end <= body:
            raise CheckpointError(
                f"{at} is not inside the {body} bytes that the file has; copy it again"
            )
        if end - first != values * DTYPES[code].itemsize:
            raise CheckpointError(f"{at} has {end - first} bytes, which its shape does not fill")
        spans.append((first, end, name))
        entries[name] = (DTYPES[code], tuple(entry["shape"]), values, first)
    reached = 0
    for first, end, name in sorted(spans):
        if first != reached:
            fault = "overlaps another" if first < reached else "lies behind a hole"
            raise CheckpointError(f"{where}: tensor {bounds.shown(name)} {fault}; convert it again")
        reached = end
    if reached != body:
        raise CheckpointError(
            f"{where} has {body - reached} bytes behind its last tensor; copy it again"
        )
    return entries
