"""What finds salient objects in many pictures: where maps come from, a model, and the rules."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from esam_jax.errors import ConfigError
from esam_jax.predict.everything import album
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import map_files, salient
from esam_jax.predict.zero_shot.contrast import Centre, Contrast
from esam_jax.predict.zero_shot.saliency_network import Saliency, load_saliency
from esam_jax.predict.zero_shot.salient import Rules, Salient

WORDS = ("contrast", "centre")  # in place of a saliency network


@runtime_checkable
class Maps(Protocol):
    """A map for each picture that it is called with; `on` as of `devices.Model`."""

    def on(self, device: jax.Device) -> Any: ...

    def __call__(self, picture: Any) -> Float32[np.ndarray, "H W"]: ...


@dataclasses.dataclass(frozen=True)
class Finder:
    """Maps, and the masks of a model for clicks in them.

    The map of a picture is that of its name in `files`, where there are any, else what `maps` makes
    of it; exactly one of both is given. Without a model, maps alone are made.
    """

    maps: Maps | None = None
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    sam: Sam | None = None
    rules: Rules = dataclasses.field(default_factory=Rules)

    def on(self, device: jax.Device) -> "Finder":
        """The same on that device, with one copy of the model for maps and masks."""
        sam = None if self.sam is None else self.sam.on(device)
        if isinstance(self.maps, Contrast) and sam is not None:
            return dataclasses.replace(self, sam=sam, maps=self.maps.by(sam))
        maps = None if self.maps is None else self.maps.on(device)
        return dataclasses.replace(self, sam=sam, maps=maps)

    def __call__(self, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> Salient:
        """DataError, which names it, for a map that cannot be read or is of another size."""
        found = self._map(name, picture)
        if self.sam is None:
            return Salient(found, (), (), ())
        return salient.of_map(self.sam, picture, found, self.rules)

    def map_digest(self, name: str) -> str | None:
        """Of the picture's map, as of `map_files.digest`; None where maps are made."""
        return map_files.digest({name: self.files[name]}) if name in self.files else None

    def about(self) -> dict[str, Any]:
        """What decides about the results, for a folder that is resumed."""
        found: dict[str, Any] = {"saliency": self._maps_in_words()}
        if isinstance(self.maps, Contrast):
            found["points_per_side"] = round(len(self.maps.generator.point_grids[0]) ** 0.5)
        if self.sam is not None:
            found |= {"model": album.digest(self.sam), **dataclasses.asdict(self.rules)}
        return found

    def _map(self, name: str, picture: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W"]:
        if self.maps is not None:
            return self.maps(picture)
        return map_files.read(self.files[name], (picture.shape[0], picture.shape[1]))

    def _maps_in_words(self) -> str:
        if isinstance(self.maps, Saliency):
            return album.digest(self.maps)
        if self.maps is not None:
            return type(self.maps).__name__.lower()
        return f"files {map_files.digest(self.files)}"


def maps(name: str, sam: Sam | None) -> Maps:
    """The contrast of everything, the centre prior, or the saliency network of a file.

    ConfigError for the contrast without a model, whose masks it takes; otherwise errors as of
    `load_saliency`.
    """
    if name == "centre":
        return Centre()
    if name != "contrast":
        return load_saliency(name)
    if sam is None:
        raise ConfigError(
            "--saliency contrast compares the masks of a model: name one with --model, or a file "
            "of U-2-Net with --saliency"
        )
    return Contrast(sam)
