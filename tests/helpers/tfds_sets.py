"""Small data sets that tensorflow-datasets prepares, of pictures that are encoded here.

It would import TensorFlow to encode arrays.
"""

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PICTURES = 12
HEIGHT, WIDTH = 20, 30


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth and of a size of its own."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def prepare(
    data_dir: Path,
    features: Any,
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    name: str = "tiny",
    config: str | None = None,
    version: str = "1.0.0",
    declared: tuple[str, str] | None = None,
    shards: int = 1,
    file_format: str = "array_record",
) -> Path:
    """Prepares splits of records, in the order of their keys, which tfds shuffles; the folder."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        code_path = None  # which tfds 4.9.10 finds with a package that it does not require
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=declared,
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: self._generate_examples(split) for split in records}

        def _generate_examples(self, split: str) -> Any:
            yield from ((f"{i:04d}", dict(record)) for i, record in enumerate(records[split]))

    Builder.name = name
    logging.getLogger("absl").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    builder = Builder(data_dir=data_dir, config=config, file_format=file_format)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=shards, try_download_gcs=False)
    )
    return data_dir / name / (config or "") / version


def classes(data_dir: Path, count: int = PICTURES, shards: int = 1, **options: Any) -> Path:
    """Pictures of three classes as ImageNet has them; picture i is `picture(i)`, a PNG."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
        "file_name": tfds.features.Text(),
    }
    records = [
        {"image": encoded(picture(i)), "label": i % 3, "file_name": f"n{i}.png"}
        for i in range(count)
    ]
    splits = {"train": records, "validation": records[:3]}
    return prepare(data_dir, features, splits, shards=shards, **options)
