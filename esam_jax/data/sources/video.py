"""Frames of videos, in their order: `SEQUENCE/00000`, each with the objects that are visible in it.

Three layouts: folders of frames with maps (DAVIS, YouTube-VOS; SA-V's val and test sets), read here
and in `frame_folders`, and SA-V's training videos (`masklets`). Records are the frames that have
annotations.
"""

from collections.abc import Sequence
from pathlib import Path

from esam_jax import files, places
from esam_jax.config import VideoConfig
from esam_jax.data.records import AnnotatedSource
from esam_jax.data.sources import frame_folders, masklets
from esam_jax.data.sources.coco_files import is_below
from esam_jax.errors import DataError, MissingError
from esam_jax.places import Place

_MAX_LIST_BYTES = 2**24


def open(config: VideoConfig, options: str = "") -> AnnotatedSource:
    """The annotated frames of a split, or of all videos."""
    place = places.place(str(config.path))
    layout = frame_folders.find(place)
    listed = None if config.split is None else _listed(layout.root if layout else place, config)
    if layout is not None:
        return frame_folders.FrameFolders(layout, config, listed)
    return masklets.Masklets(place, config, listed)


def detects(path: str) -> VideoConfig | None:
    """A folder of one of the layouts, or one of frames with maps in the folder beside it."""
    place = places.place(path)
    found = frame_folders.find(place) is not None or masklets.are_in(place)
    return VideoConfig(path=path) if found else None


def _listed(root: Place, config: VideoConfig) -> Sequence[str]:
    """The names of the videos of a split; DataError where there is no such list.

    Lines are names, or, in DAVIS 2016, the files of one frame each.
    """
    if not root.is_dir():
        raise MissingError(f"{root} is not a folder")
    split = str(config.split)
    lists = [root / "ImageSets" / f"{split}.txt", root / f"{split}.txt"]
    found = next((each for each in lists if is_below(split) and each.is_file()), None)
    if found is None:
        there = sorted([*(root / "ImageSets").rglob("*.txt"), *root.glob("*.txt")])
        names = [x.relative_to(root).with_suffix("").as_posix() for x in there]
        listed = ", ".join(name.removeprefix("ImageSets/") for name in names[:9])
        lists_there = f"its lists are {listed}" if listed else "it has no list of videos"
        raise DataError(f"source.split is {split!r}, but {root} has no list of it: {lists_there}")

    def attempt() -> bytes:
        with found.open("rb") as file:
            return file.read(_MAX_LIST_BYTES)

    lines = files.read(found, attempt, "check the path").decode(errors="replace").splitlines()
    first = [line.split()[0] for line in lines if line.strip()]
    return list(dict.fromkeys(Path(x).parent.name if "/" in x else x for x in first))
