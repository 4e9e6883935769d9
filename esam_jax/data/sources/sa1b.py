"""SA-1B's layout: `sa_<id>.jpg` with `sa_<id>.json` beside it, masks as compressed run lengths."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from esam_jax import files
from esam_jax.config import Sa1bConfig
from esam_jax.data import pictures
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import CocoMasks
from esam_jax.data.records import Record, sampled
from esam_jax.data.sources.annotations import declared_size, field, outlines
from esam_jax.errors import DataError, MissingError

_READERS = 16  # of the jsons that a digest is made of
_MAX_JSON_BYTES = 2**26  # genuine files stay below a megabyte


def open(config: Sa1bConfig, options: str = "") -> "Sa1b":
    """Every picture below the path of the config whose name is one of SA-1B's."""
    return Sa1b(config)


def detects(path: str) -> Sa1bConfig | None:
    """A folder with SA-1B's jsons, flat or in folders."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return None
    # At any depth: archives unpack into folders, and those may lie in folders of parts.
    return Sa1bConfig(path=path) if next(place.rglob("sa_*.json"), None) else None


class Sa1b:
    """Every `sa_*.jpg` at any depth below a folder, in the frame that its json states."""

    findings: Sequence[Finding] = ()  # each json is read with its picture

    def __init__(self, config: Sa1bConfig) -> None:
        self._config, self._root = config, Path(str(config.path)).expanduser()
        self._names = [name for name in pictures.list_pictures(self._root).names if is_sa1b(name)]
        if not self._names:
            raise DataError(f"{self._root} holds no sa_*.jpg at any depth")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> Record:
        name, config, noted = self._names[index], self._config, []
        path = self._root / name
        content = files.read_json(
            path.with_suffix(".json"), max_bytes=_MAX_JSON_BYTES, error=DataError, finite=False
        )
        found = outlines(field(content, "annotations", list, name), name, config.crowds, noted)
        size = declared_size(content.get("image"), found)
        picture = pictures.read_as_annotated(path, name, size, config, noted)
        masks = CocoMasks(name, found, picture.height, picture.width)
        return Record(name, picture, {"masks": masks}, noted)

    def digest(self) -> str:
        """Of a thousand jsons, spread evenly: there may be eleven million."""
        jsons = [(self._root / self._names[i]).with_suffix(".json") for i in sampled(self)]
        with ThreadPoolExecutor(_READERS) as pool:
            digests = b"".join(pool.map(_digest, jsons))
        return f"annotations of {len(jsons)} {hashlib.sha256(digests).hexdigest()[:12]}"


def _digest(json: Path) -> bytes:
    try:
        content = files.read(json, json.read_bytes, "check the path")
    except MissingError:  # its picture is left out, if it is met
        return bytes(32)
    return hashlib.sha256(content).digest()


def is_sa1b(name: str) -> bool:
    """Whether a picture's name is one of SA-1B's."""
    parts = PurePosixPath(name)
    return parts.name.startswith("sa_") and parts.suffix == ".jpg"
