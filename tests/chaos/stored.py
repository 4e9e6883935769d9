"""The data that the chaos runner trains on: drawn scenes, or drawn pictures in tars or a pack."""

from helpers import made_sets, tar_files

from esam_jax.config import Sa1bConfig
from esam_jax.data import sources
from esam_jax.datasets import packing

KINDS = ("scenes", "tars", "pack")
_PICTURES = 100
_SHARDS = 3  # and so many archives


def keys(kind, folder, workers):
    """Options of `esam train` for data of a kind, which is made in `folder`, and its workers."""
    found = ["--data.workers", workers, "--data.threads", max(workers, 1)]
    if kind == "scenes":
        return found
    pictures = made_sets.sa1b(folder / "pictures", _PICTURES)
    if kind == "tars":
        for number in range(_SHARDS):
            tar_files.of_folder(
                pictures,
                folder / "tars" / f"{number}.tar",
                keep=lambda path, number=number: _number(path) % _SHARDS == number,
            )
        return [*found, "--data.source.kind", "sa1b", "--data.source.path", folder / "tars"]
    config = Sa1bConfig(path=str(pictures))
    source = sources.open_source(config)
    packing.write(source, folder / "pack", packing.plan(source, config, shards=_SHARDS))
    return [*found, "--data.source.kind", "pack", "--data.source.path", folder / "pack"]


def _number(path):
    return int(path.stem.removeprefix("sa_"))
