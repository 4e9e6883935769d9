"""SA-1B's layout: `sa_<id>.jpg` with `sa_<id>.json` beside it, masks as compressed run lengths.

In a folder, or in the tar archives in which it is shipped. A picture has the same name in both:
that which it has in its archive is that below a folder into which all are unpacked.
"""

import hashlib
import itertools
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from esam_jax import files, places
from esam_jax.config import Sa1bConfig
from esam_jax.data import pictures, tar_index, tars
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import CocoMasks
from esam_jax.data.records import Record, sampled
from esam_jax.data.sources import sa1b_files
from esam_jax.data.sources.annotations import declared_size, field, outlines
from esam_jax.errors import DataError, MissingError
from esam_jax.places import Place
from esam_jax.words import counted

_READERS = 16  # of the jsons that a digest is made of
_FIRST = 100  # files of an archive, by which it is recognised


def open(config: Sa1bConfig, options: str = "") -> "Sa1b":
    """Every picture below the path of the config whose name is one of SA-1B's."""
    return Sa1b(config, *_found(config))


def detects(path: str) -> Sa1bConfig | None:
    """A folder with SA-1B's jsons, flat or in folders, or with its archives; one archive of it."""
    place = places.place(path)
    if place.is_file():
        return Sa1bConfig(path=path) if _is_archive(place) else None
    if not place.is_dir():
        return None
    # At any depth: archives unpack into folders, and those may lie in folders of parts.
    if next(place.rglob("sa_*.json"), None):
        return Sa1bConfig(path=path)
    archives = itertools.islice(tars.find(place), 1)
    return Sa1bConfig(path=path) if any(map(_is_archive, archives)) else None


def _is_archive(path: Place) -> bool:
    names = tar_index.first_names(path, _FIRST)
    return any(Path(name).match("sa_*.json") for name in names)


def _found(config: Sa1bConfig) -> tuple[sa1b_files.Files, list[Finding]]:
    """Unpacked pictures where there are any, else those of archives; DataError for none."""
    path = places.place(str(config.path))
    if path.is_dir():
        unpacked, archives = sa1b_files.in_folder(path)
        if len(unpacked):
            if archives:
                warnings.warn(
                    f"{path}: the unpacked pictures are read, and {counted(archives, 'archive')} "
                    "beside them not; to read these, move them to a folder of their own",
                    UserWarning,
                    stacklevel=3,
                )
            return unpacked, []
        if not archives:
            raise DataError(f"{path} holds no sa_*.jpg at any depth, nor a tar archive")
    index = None if config.index is None else places.place(config.index)
    found, findings = sa1b_files.in_tars(path, index)
    if not len(found):
        raise DataError(f"{path} holds no sa_*.jpg with its json")
    return found, findings


class Sa1b:
    """Pictures of SA-1B, each in the frame that its json states."""

    def __init__(
        self, config: Sa1bConfig, found: sa1b_files.Files, findings: Sequence[Finding] = ()
    ) -> None:
        self._config, self._files, self.findings = config, found, findings

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        return self._files.name(index)

    def read(self, index: int) -> Record:
        name, config, noted = self.name(index), self._config, []
        where = self._files.where(index)
        text = self._files.json(index)
        content = files.json_object(text, f"the json of {where}", error=DataError, finite=False)
        found = outlines(field(content, "annotations", list, name), name, config.crowds, noted)
        size = declared_size(content.get("image"), found)
        data = self._files.picture(index)
        upright = pictures.encoded(where, data, "upright", config.sixteen_bit, noted)
        picture = pictures.as_annotated(upright, name, size, config)
        masks = CocoMasks(name, found, picture.height, picture.width)
        return Record(name, picture, {"masks": masks}, noted)

    def digest(self) -> str:
        """Of a thousand jsons, spread evenly: there may be eleven million."""
        with ThreadPoolExecutor(_READERS) as pool:
            digests = b"".join(pool.map(self._digest, sampled(self)))
        found = hashlib.sha256(digests).hexdigest()[:12]
        return f"annotations of {len(sampled(self))} {found}"

    def _digest(self, index: int) -> bytes:
        try:
            content = self._files.json(index)
        except (MissingError, DataError):  # its picture is left out, if it is met
            return bytes(32)
        return hashlib.sha256(content).digest()
