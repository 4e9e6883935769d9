"""Weight files in and out; nothing else in the package opens one.

`read` takes safetensors, in one file or in shards, PyTorch files, also in a zip archive. It
runs nothing, copies nothing that can be mapped, and raises CheckpointError for a file that is
damaged, hostile or ambiguous, MissingError for one that is not there. Which names, shapes and
dtypes a model needs is decided elsewhere.
"""

import dataclasses
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

import numpy as np

from esam_jax import files
from esam_jax.convert.formats import bounds, safetensors_file, torch_file, zip_file
from esam_jax.convert.formats.choices import Weights
from esam_jax.errors import CheckpointError, MissingError

TORCH_FILE = "pytorch_model.bin"  # as libraries call it
INDEX_FILE, TORCH_INDEX_FILE = "model.safetensors.index.json", f"{TORCH_FILE}.index.json"
INDEX_FILES = (INDEX_FILE, TORCH_INDEX_FILE)
FLOATS = ("float32", "float16", "bfloat16")  # what weights usually are
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

# Weights hardly shrink when zipped; zeros do, a thousandfold. SAM ViT-H has 2.4 GiB.
_MOST_RATIO, _MOST_BYTES = 10, 16 * 2**30
_CHUNK_BYTES = 2**20
_MOST_SHARDS = 256  # each takes a file descriptor, of which a process has some 1,000

write_safetensors = safetensors_file.write
write_torch = torch_file.write


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensors:
    """What a file holds: read-only arrays by name, in the file's own dtypes.

    They are views of the mapped file wherever that can be, so that reading takes no memory; the
    file must not be changed in place meanwhile (to replace it is fine). `wrapped` is the key of a
    PyTorch file under which they lie, `ignored` the names of what lies beside, and `passed_over`
    the key of other weights of the same model.
    """

    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    wrapped: str | None
    format: Literal["safetensors", "sharded", "torch", "zip"]
    path: Path
    ignored: tuple[str, ...] = ()
    passed_over: str | None = None

    @property
    def odd_dtypes(self) -> dict[str, str]:
        """Tensors other than floats of 16 or 32 bits, with their dtype."""
        names = {name: x.dtype.name for name, x in self.tensors.items()}
        return {name: dtype for name, dtype in names.items() if dtype not in FLOATS}


def read(path: str | Path, weights: Weights | None = None) -> Tensors:
    """The tensors of one file, or of a folder with an index of shards.

    `weights` picks one where a PyTorch file holds averaged weights beside others.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _read_shards(_index(path), path)
        if not path.exists():
            raise MissingError(f"no file at {str(path)!r}")
        if not path.is_file():  # opening a pipe would wait forever
            raise CheckpointError(f"{path} is not a regular file; copy the weights to one")
        if path.name.endswith(".index.json"):
            return _read_shards(path, path)
        if suffix == ".safetensors":
            tensors, metadata = safetensors_file.read(path)
            return Tensors(
                tensors=tensors, metadata=metadata, wrapped=None, format="safetensors", path=path
            )
        if suffix in TORCH_SUFFIXES:
            return _tensors(torch_file.read(path, weights=weights), "torch", path)
        if suffix == ".zip":
            return _read_zip(path, weights)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError | MissingError):
            raise
        raise files.refusal(error) or CheckpointError(
            f"{path} cannot be read ({error}); copy it again"
        ) from error
    raise CheckpointError(
        f"{path} is not a weight file: it must be .safetensors, {', '.join(TORCH_SUFFIXES)}, .zip, "
        f"or {INDEX_FILE} with its shards"
    )


def _tensors(found: torch_file.Contents, kind: Literal["torch", "zip"], path: Path) -> Tensors:
    return Tensors(
        tensors=found.tensors,
        metadata=found.metadata,
        wrapped=found.wrapped,
        format=kind,
        path=path,
        ignored=found.ignored,
        passed_over=found.passed_over,
    )


# ------------------------------------------------------------------------------------- shards


def _index(folder: Path) -> Path:
    other = folder / TORCH_INDEX_FILE
    return other if other.is_file() and not (folder / INDEX_FILE).is_file() else folder / INDEX_FILE


def shard_files(index: Path) -> list[Path]:
    """Every shard that an index lists; CheckpointError unless all lie beside it, and are few."""
    names = sorted(set(_weight_map(index).values()))
    if len(names) > _MOST_SHARDS:
        raise CheckpointError(
            f"{index} lists {len(names)} shards, but at most {_MOST_SHARDS} are read: save the "
            "weights in fewer"
        )
    return [_shard(index, name) for name in names]


def _read_shards(index: Path, path: Path) -> Tensors:
    """Every shard beside the index; together they must hold exactly what it lists."""
    if not index.is_file():
        raise MissingError(f"no {index.name} in {str(index.parent)!r}")
    holders = _weight_map(index)
    tensors: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    for file in shard_files(index):
        if file.suffix == ".safetensors":
            found, about = safetensors_file.read(file)
        else:
            found, about = torch_file.read(file).tensors, {}
        listed = {name for name, holder in holders.items() if holder == file.name}
        if listed != found.keys():
            raise CheckpointError(
                f"{index} and {file.name} disagree about {bounds.listed(listed ^ found.keys())}; "
                "copy both again"
            )
        tensors |= found
        metadata |= about
    return Tensors(tensors=tensors, metadata=metadata, wrapped=None, format="sharded", path=path)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> name of its shard."""
    with index.open("rb") as file:
        text = file.read(bounds.MOST_HEADER_BYTES + 1)
    if len(text) > bounds.MOST_HEADER_BYTES:
        raise CheckpointError(f"{index} is longer than {bounds.MOST_HEADER_BYTES} bytes")
    files = safetensors_file.parse_json(text, str(index)).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise CheckpointError(f"{index}: weight_map must give each tensor's file; copy it again")
    return files


def _shard(index: Path, name: str) -> Path:
    """The shard's path; CheckpointError unless it is a weight file in the index's folder."""
    path = index.parent / name
    suffix = ".bin" if index.name == TORCH_INDEX_FILE else ".safetensors"
    plain = not set(name) & set("/\\\0") and name.endswith(suffix)
    if not plain or path.resolve().parent != index.parent.resolve():
        raise CheckpointError(
            f"{index} names the shard {bounds.shown(name)}, which is not in its folder; copy all "
            "shards there under plain names"
        )
    if not path.is_file():
        raise MissingError(f"no shard at {str(path)!r}")
    return path


# ----------------------------------------------------------------------------------------- zip


def _read_zip(path: Path, weights: Weights | None) -> Tensors:
    """The one PyTorch file in an archive, by way of a temporary file that is gone on return."""
    with path.open("rb") as file, zip_file.opened(file, str(path)) as archive:
        info = _only_torch_file(archive, path)
        where = f"{bounds.shown(info.filename)} in {path}"
        with tempfile.NamedTemporaryFile(prefix="esam_", suffix=".pt") as copy:
            _unpack(archive, info, copy, where)
            # The arrays keep what they map alive after the name is gone.
            return _tensors(torch_file.read(Path(copy.name), where, weights), "zip", path)


def _only_torch_file(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    found = [
        info
        for info in archive.infolist()
        # macOS adds a small file of attributes for each.
        if info.filename.endswith((".pt", ".pth")) and not info.filename.startswith("__MACOSX/")
    ]
    if len(found) != 1:
        raise CheckpointError(
            f"{path} holds {len(found)} .pt or .pth files, but needs one: unpack it and name one"
        )
    info = found[0]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(f"{path} is packed in an unusual way; unpack it and name the file")
    if info.file_size > min(_MOST_RATIO * info.compress_size, _MOST_BYTES):
        raise CheckpointError(
            f"{path} unpacks to {info.file_size} bytes from {info.compress_size}; at most "
            f"{_MOST_RATIO} times as many and {_MOST_BYTES} are unpacked, so unpack it yourself"
        )
    return info


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, copy: IO[bytes], where: str) -> None:
    """Writes the member, and never a byte more than its declared size."""
    left = info.file_size
    try:
        with archive.open(info) as member:
            while left >= 0 and (chunk := member.read(_CHUNK_BYTES)):
                left -= len(chunk)
                copy.write(chunk if left >= 0 else b"")
        copy.flush()
    except OSError as error:
        raise MissingError(
            f"{where} cannot be unpacked to {copy.name} ({error}); "
            "point TMPDIR to a folder with more space"
        ) from error
    if left:
        raise CheckpointError(f"{where} has another size than the archive says; copy it again")
