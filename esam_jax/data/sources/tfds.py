"""Data sets of tensorflow-datasets that are prepared as ArrayRecord; TensorFlow is never imported.

`tfds_folder` finds the files, `tfds_features` says which features are ours, `tfds_shards` reads
records and `tfds_example` what is in one. Nothing is downloaded or prepared here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax.config import TfdsConfig
from esam_jax.data.findings import Finding
from esam_jax.data.records import Record
from esam_jax.data.sources import tfds_example, tfds_features, tfds_folder
from esam_jax.data.sources.tfds_shards import Shards
from esam_jax.errors import DataError, EsamError, MissingError, one_line


def open(config: TfdsConfig, options: str = "") -> "Tfds":
    """The records of a split of a prepared data set."""
    return Tfds(config, options)


def detects(path: str) -> TfdsConfig | None:
    """The folder of one prepared version; its train split, or its first where it has none.

    MissingError for a folder in which there are some.
    """
    folder = Path(path).expanduser()
    if not tfds_folder.is_prepared(folder):
        if version := tfds_folder.below(folder):
            raise MissingError(
                f"{path} holds data of tensorflow-datasets: name the folder of a version, such as "
                f"{version}, or its data_dir with the kind tfds and a name"
            )
        return None
    splits = tfds_folder.splits(tfds_folder.check(folder))
    return TfdsConfig(
        path=path, split=next(iter(splits), "train") if "train" not in splits else "train"
    )


class Tfds:
    """The records of a split, each named by its number in the complete split: "train/00000123".

    Such names need no pass over the data, whose own may not be unique. Messages add these.
    """

    findings: Sequence[Finding] = ()  # annotations are read with their pictures

    def __init__(self, config: TfdsConfig, options: str) -> None:
        folder = tfds_folder.find(config, options)
        tfds_folder.check(folder)
        builder = _builder(folder)
        self._config = config
        self._features = tfds_features.find(builder.info, config, options)
        self._shards = Shards(folder, builder, config.split, options)

    @property
    def lacks(self) -> Mapping[str, str]:
        return self._features.lacks

    @property
    def classes(self) -> Sequence[str]:
        """Those of the feature that is used, where it names them."""
        return () if self._features.label is None else self._features.label.names

    def __len__(self) -> int:
        return len(self._shards)

    def name(self, index: int) -> str:
        return self._shards.name(index)

    def read(self, index: int) -> Record:
        return tfds_example.read(
            self._shards.read(index), self.name(index), self._features, self._config
        )

    def digest(self) -> str:
        return self._shards.digest()


def _builder(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(str(folder))
    except EsamError:
        raise
    except Exception as error:  # of its parsers, of any kind
        raise DataError(
            f"{folder} cannot be opened by tensorflow-datasets ({one_line(error)}): prepare it "
            "again"
        ) from error
