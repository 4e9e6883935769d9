"""Small weight files made by hand, byte by byte, so that tests can make wrong ones too."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PROTOCOL, STOP = b"\x80\x02", b"."
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
VALUES = bytes(range(24))  # six float32 values


def safetensors(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(first: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    shape = [(end - first) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


def plain(value: Any) -> bytes:
    """The pickle of a plain value, without its frame."""
    return pickle.dumps(value, 2)[2:-1]


def storage(
    key: str = "0", values: int = 6, kind: str = "FloatStorage", more: bytes = b""
) -> bytes:
    parts = (plain("storage"), f"ctorch\n{kind}\n".encode(), plain(key), plain("cpu"))
    return b"(" + b"".join(parts) + plain(values) + more + b"tQ"


def tensor(
    block: bytes | None = None,
    offset: Any = 0,
    shape: Any = (2, 3),
    strides: Any = (3, 1),
    hooks: bytes = ORDERED_DICT,
) -> bytes:
    block = storage() if block is None else block
    view = plain(offset) + plain(shape) + plain(strides) + plain(False) + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + block + view + b"tR"


def state(**values: bytes) -> bytes:
    """The pickle of a dict whose values are pickled already."""
    items = b"".join(plain(name) + value + b"s" for name, value in values.items())
    return PROTOCOL + b"}" + items + STOP


def archive(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return written.getvalue()


def torch_zip(pickled: bytes, body: bytes = VALUES, compression: int = zipfile.ZIP_STORED) -> bytes:
    members = {"archive/data.pkl": pickled, "archive/data/0": body, "archive/version": b"3\n"}
    return archive(members, compression)


def torch_legacy(pickled: bytes, body: bytes = VALUES) -> bytes:
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    frames = [LEGACY_MAGIC, *(PROTOCOL + plain(x) + STOP for x in (1001, about)), pickled]
    frames += [PROTOCOL + plain(["0"]) + STOP, struct.pack("<q", len(body) // 4), body]
    return b"".join(frames)


def shards(folder: Path, weight_map: Mapping[str, Any], **files: bytes) -> Path:
    for name, data in files.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": dict(weight_map)}))
    return index


def torch_file(tensors: Mapping[str, np.ndarray]) -> bytes:
    """What `torch.save` makes of a state dict of float32 and int64 arrays."""
    pickled, members = {}, {}
    for number, (name, array) in enumerate(tensors.items()):
        kind = {"float32": "FloatStorage", "int64": "LongStorage"}[array.dtype.name]
        strides = tuple(stride // array.itemsize for stride in array.strides)
        block = storage(str(number), array.size, kind)
        pickled[name] = tensor(block, 0, array.shape, strides)
        members[f"archive/data/{number}"] = array.tobytes()
    return archive({"archive/data.pkl": state(**pickled), "archive/version": b"3\n", **members})
