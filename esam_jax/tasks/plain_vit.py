"""The plain ViT of a model: which one a name stands for, and what a file holds of it.

A plain ViT is {encoder, class_token, norm}. MAE's models are one, classifiers have one behind their
head, and a run of SAMI keeps class token and norm beside its promptable model.
"""

from typing import Any

from esam_jax.config import ClassifierConfig, MaeConfig, SamConfig, VitConfig
from esam_jax.convert import load
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import named
from esam_jax.models.heads import classifier
from esam_jax.typing import Params

_HOLDING = MaeConfig | ClassifierConfig | SamConfig
_BEHIND = ("class_token", "norm", "distillation")  # the trunk, which they belong to


def encoder(
    key: str, model: str, image_px: int, *, choices: str = "an efficientsam_*, mae_* or deit_*"
) -> VitConfig:
    """The encoder of the model of this name, which `key` of the config has, without a neck.

    ConfigError for one that is no plain ViT, of which `choices` are, or whose positions are of
    pictures of another size.
    """
    found = named.model(model).encoder
    if not isinstance(found, VitConfig):
        raise ConfigError(
            f"{key} is {model!r}, which has no plain ViT encoder: choose {choices} model"
        )
    if found.pretrain_px != image_px:
        raise ConfigError(
            f"data.view.image_px is {image_px}, but the position table of {model!r} was made for "
            f"{found.pretrain_px}: write --data.view.image-px {found.pretrain_px}, or choose "
            f"another {key}"
        )
    return timm_vit.pretrained(found)


def require(file: ModelFile, wanted: VitConfig, *, where: str, model: str) -> None:
    """CheckpointError unless the file holds the encoder; `where` is the key and value that name it,
    and `model` the name of what is wanted."""
    # A tower of CLIP has such an encoder, too, and computes something else with it.
    found = file.config.encoder if isinstance(file.config, _HOLDING) else file.config
    known = timm_vit.pretrained(found) if isinstance(found, VitConfig) else found
    if known != wanted:
        raise CheckpointError(
            f"{where} holds another encoder than {model!r}: {load.differences(known, wanted)}; "
            "name the model that it holds, or other weights"
        )


def held(file: ModelFile) -> Params:
    """{encoder, class_token, norm, distillation}, as far as a file has them, for pixels with
    ImageNet's mean and deviation."""
    config, params = file.config, file.params
    if isinstance(config, ClassifierConfig):
        params = classifier.of_imagenet_pixels(config, params)
    beside = {**timm_vit.beside(file.unused), **params}  # a run of SAMI keeps them so
    trunk = {name: x for name, x in params["encoder"].items() if name != "neck"}
    found: dict[str, Any] = {"encoder": trunk}
    return found | {name: beside[name] for name in _BEHIND if name in beside}


def taken(file: ModelFile, pool: str = "class_token") -> Params:
    """`held`, of a model that pools as `pool` of a `ClassifierConfig` says: the norm is that of
    single tokens, or of the mean of the patches."""
    found: dict[str, Any] = {**held(file)}
    pooled = file.config.pool if isinstance(file.config, ClassifierConfig) else "class_token"
    if (pooled == "mean") != (pool == "mean"):
        found.pop("norm", None)
    second = found.pop("distillation", None)
    if second is not None and pool == "distilled":
        found["distillation"] = {name: x for name, x in second.items() if name != "head"}
    return found
