"""BSDS500: pictures, and the boundaries and regions that several people drew in each.

The original has `BSDS500/data/images/SPLIT/NAME.jpg` and, below `groundTruth/`, MATLAB files. A
folder with `images/NAME.jpg` and `gt/NAME.npz` (arrays `boundaries` and `segmentation`, one person
after the other) is the same without MATLAB.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from esam_jax import files, places
from esam_jax.config import BsdsConfig
from esam_jax.data import decode, matlab_file
from esam_jax.data.mask_sets import LayeredMasks, Object, Region
from esam_jax.data.records import Record
from esam_jax.data.sources import paired
from esam_jax.errors import DataError
from esam_jax.places import Place

_MAX_FILE_BYTES = 2**26  # genuine files stay below a megabyte
_MAX_UNPACKED_BYTES = 2**26
_MOST_PEOPLE = 50
_MOST_REGIONS = 10_000  # of one person


class _Drawn(NamedTuple):
    """What everybody drew; 0 is no region."""

    boundaries: Bool[np.ndarray, "X H W"]
    regions: Integer[np.ndarray, "X H W"]


def open(config: BsdsConfig, options: str = "") -> "Bsds":
    """The pictures of a split, or of all."""
    return Bsds(config)


def detects(path: str) -> BsdsConfig | None:
    """The folder of either layout, or one above the original's `data/`."""
    return None if _folders(places.place(path)) is None else BsdsConfig(path=path)


class Bsds(paired.Paired):
    """The pictures with their boundaries, and as masks the regions of all people together."""

    def __init__(self, config: BsdsConfig) -> None:
        root = places.place(str(config.path))
        folders = _folders(root) or paired.Folders(root / "images", root / "groundTruth", ".mat")
        super().__init__(paired.find(folders, config.split, "ground truth"))
        self._config = config

    def read(self, index: int) -> Record:
        name, noted = self.name(index), []
        picture = self._pairs.read(index, self._config, noted)
        path = self._pairs.other(index)
        with decode.named(path):
            drawn = _READERS[path.suffix](_content(path))
        paired.require_size(name, "ground truth", drawn.regions.shape[1:], picture)
        with decode.named(path):
            masks = LayeredMasks(drawn.regions, list(_named(drawn.regions)))
        return Record(name, picture, {"boundaries": drawn.boundaries, "masks": masks}, noted)

    def digest(self) -> str:
        """Of a thousand files, spread evenly."""
        return f"ground truth {self._pairs.digest()}"


def _folders(root: Place) -> paired.Folders | None:
    """Where pictures and ground truth lie below a path."""
    for part in (".", "data", "BSDS500/data", "BSR/BSDS500/data"):
        for others, suffix in (("groundTruth", ".mat"), ("gt", ".npz")):
            folders = paired.Folders(root / part / "images", root / part / others, suffix)
            if folders.hold_a_pair():
                return folders
    return None


def _content(path: Place) -> bytes:
    def attempt() -> bytes:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES + 1)

    data = files.read(path, attempt, "check the path")
    if len(data) > _MAX_FILE_BYTES:
        raise DataError(f"it is larger than {_MAX_FILE_BYTES} bytes")
    return data


def _named(regions: Integer[np.ndarray, "X H W"]) -> Iterator[Region]:
    """Every region of every person; both are counted from 1."""
    for person, layer in enumerate(regions):
        counts = np.bincount(layer.ravel(), minlength=1)
        if len(counts) > _MOST_REGIONS:
            raise DataError(
                f"annotator {person + 1} has the region {len(counts) - 1}, but at most "
                f"{_MOST_REGIONS - 1} are read"
            )
        for number in np.flatnonzero(counts[1:]) + 1:
            about = Object(f"annotator {person + 1} region {number}")
            yield Region(person, int(number), about)


def _of_matlab(data: bytes) -> _Drawn:
    """`groundTruth`: a cell for each person, with a struct of `Segmentation` and `Boundaries`."""
    cells = matlab_file.read(data, "groundTruth", _MAX_UNPACKED_BYTES)
    found = []
    for person, cell in enumerate(cells if isinstance(cells, list) else (), 1):
        drawn = cell[0] if isinstance(cell, list) and len(cell) == 1 else None
        if not isinstance(drawn, dict) or not {"Boundaries", "Segmentation"} <= drawn.keys():
            raise DataError(
                f"what annotator {person} drew is no struct of Segmentation and Boundaries"
            )
        found.append((drawn["Boundaries"], drawn["Segmentation"]))
    if not 0 < len(found) <= _MOST_PEOPLE:
        raise DataError(f"it has {len(found)} annotators, but must have 1 to {_MOST_PEOPLE}")
    for person, pair in enumerate(found, 1):
        for array in pair:
            _require_numbers(f"what annotator {person} drew", array, 2)
            if array.shape != found[0][0].shape:
                raise DataError(
                    f"what annotator {person} drew is {array.shape}, but that of the first is "
                    f"{found[0][0].shape}"
                )
    boundaries, regions = (np.stack(each) for each in zip(*found, strict=True))
    return _checked(boundaries, regions)


def _of_numpy(data: bytes) -> _Drawn:
    """`boundaries` and `segmentation`, each [annotators, height, width]."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            boundaries, regions = (_array(archive, name) for name in ("boundaries", "segmentation"))
    except DataError:
        raise
    except Exception as error:  # a broken archive raises almost anything
        raise DataError(f"broken .npz file ({error}): fetch it again") from error
    for name, array in (("boundaries", boundaries), ("segmentation", regions)):
        _require_numbers(name, array, 3)
    if boundaries.shape != regions.shape or not 0 < len(regions) <= _MOST_PEOPLE:
        raise DataError(
            f"boundaries are {boundaries.shape} and segmentation is {regions.shape}, but both must "
            f"be [annotators, height, width], of 1 to {_MOST_PEOPLE} annotators"
        )
    return _checked(boundaries, regions)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an .npz; its header is compared with its bytes before there is room for it."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DataError(f"it has no array {name!r}") from None
    if info.file_size > _MAX_UNPACKED_BYTES:
        raise DataError(f"{name} has {info.file_size} bytes, but at most {_MAX_UNPACKED_BYTES}")
    with archive.open(info) as file:
        stream = io.BytesIO(file.read(_MAX_UNPACKED_BYTES))
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise DataError(f"{name} is of version {version} of NumPy's format, but must be of (1, 0)")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    left = stream.getbuffer().nbytes - stream.tell()
    count = 1
    for side in shape:  # in Python's integers, which do not overflow
        count *= side
    if dtype.hasobject or min(shape, default=1) < 0 or count * dtype.itemsize != left:
        raise DataError(f"{name} of {dtype} and {shape} has {left} bytes, which do not agree")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _require_numbers(what: str, array: Any, axes: int) -> None:
    if not isinstance(array, np.ndarray) or array.ndim != axes or array.dtype.kind not in "bui":
        kind = f"{array.dtype}{array.shape}" if isinstance(array, np.ndarray) else type(array)
        raise DataError(f"{what} is {kind}, but must be whole numbers with {axes} axes")


def _checked(boundaries: np.ndarray, regions: np.ndarray) -> _Drawn:
    if boundaries.min(initial=0) < 0 or boundaries.max(initial=0) > 1:
        raise DataError("boundaries must be 0 or 1")
    if regions.min(initial=0) < 0 or regions.max(initial=0) > np.iinfo(np.int32).max:
        raise DataError("regions must be numbers from 0")
    return _Drawn(boundaries.astype(bool), regions.astype(np.int32, copy=False))


_READERS: Mapping[str, Callable[[bytes], _Drawn]] = {".mat": _of_matlab, ".npz": _of_numpy}
