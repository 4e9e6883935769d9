"""Where training starts: a pretrained trunk, a complete model, a SAM's mask decoder.

`init_from` brings what its model was trained for. `decoder_from` brings a SAM's prompt encoder and
mask decoder, and the norm that ends the neck before them; the neck's 3x3 convolution then starts as
the identity, so that one linear map has to be found between a trunk and features that this decoder
can read: as in SAMI, whose head is one. Everything else is drawn, and so must be trained. Both
wirings of the decoder have the same parameters, so SAM's are a start for EfficientSAM's too, though
they compute something else there (`models/sam/two_way.py`).
"""

import dataclasses
from pathlib import Path

import flax.traverse_util
import numpy as np

from esam_jax.config import (
    ClassifierConfig,
    DecoderConfig,
    MaeConfig,
    SamConfig,
    SamVitConfig,
    SegmentConfig,
    VitConfig,
)
from esam_jax.convert import load, model_folder, provenance
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, ConfigError, EsamError
from esam_jax.models import expected_shapes, lora, named
from esam_jax.models.heads import classifier
from esam_jax.tasks import mae_trunk, rounds
from esam_jax.tasks.task import BEHIND_TRUNK, Start
from esam_jax.typing import Params

_DECODER = ("prompt", "decoder")
# What not every decoder has: the field of its config, and the branches of the prompt encoder.
_OPTIONAL = {
    "background": ("background",),
    "mask_prompts": ("no_mask", "mask"),
    "text_width": ("text",),
}
_VIT = (MaeConfig, ClassifierConfig)  # what is trained by pretraining or classification
_NONE = ("none", None)  # values of these fields for what is not there


def read(task: SegmentConfig, config: SamConfig) -> Start:
    """Branches of the model's tree that are not drawn, and what the task's prompts will not train.

    MissingError for a file that is not there, CheckpointError for one that does not fit or does not
    hold what `train` leaves frozen, ConfigError where there is none and one is needed.
    """
    if task.train != "all" and task.init_from is None:
        raise ConfigError(
            f"task.train is {task.train!r}, but task.init_from is not given: what is not trained "
            "would stay random, so name a trained model, or write --task.train all"
        )
    params: Params = {}
    before = _DECODER  # what was never trained so far
    if task.init_from is not None:
        file = _model(task.init_from, task.model, config)
        params, before = _without(file.params, file.untrained), file.untrained
    if task.decoder_from is not None:
        file = _decoder(task.decoder_from, task.model, config)
        taken, before = _without(file.params, file.untrained), file.untrained
        # A trained neck stays with the encoder that it belongs to.
        encoder = {**taken.get("encoder", {}), **params.get("encoder", {})}
        params = {**params, **taken, "encoder": encoder}
    _require_frozen(task, config, params)
    never = _never_trained(task, config)
    kept = tuple(part for part in never if any(f"{part}/".startswith(f"{b}/") for b in before))
    return Start({task.model: params} if params else {}, kept)


def trains(task: SegmentConfig, path: str) -> bool:
    """`Task.trains`, by the branch of the model that a parameter lies in."""
    branch = path.split("/")[1]
    return {"all": True, "decoder": branch in _DECODER, "lora": branch == lora.BRANCH}[task.train]


def _require_frozen(task: SegmentConfig, config: SamConfig, params: Params) -> None:
    """CheckpointError for what would stay as drawn; extensions of the decoder start as zeros."""
    taken = flax.traverse_util.flatten_dict(params, sep="/")
    zeros = tuple(f"prompt/{branch}" for branches in _OPTIONAL.values() for branch in branches)
    left = [
        path
        for path in expected_shapes.of(config)
        if path not in taken
        and not trains(task, f"{task.model}/{path}")
        and not path.startswith(zeros)
    ]
    if left:
        branches = sorted({"/".join(path.split("/")[:2]) for path in left})
        raise CheckpointError(
            f"task.train is {task.train!r}, but {task.init_from} brings no {', '.join(branches)}, "
            "which would stay random: start from a model that is trained completely, or write "
            "--task.train all"
        )


def trunk(init_from: str, model: str) -> Params:
    """An encoder without its neck, which is what SAMI trains of the model of this name.

    MissingError for a file that is not there, CheckpointError for one that does not fit.
    """
    encoder = _model(init_from, model, named.sam(model)).params["encoder"]
    return {name: branch for name, branch in encoder.items() if name != "neck"}


def encoder(init_from: str, model: str) -> Params:
    """The image encoder of the model of this name, less what was never trained of it.

    MissingError for a file that is not there, CheckpointError for one that does not fit.
    """
    file = _model(init_from, model, named.sam(model))
    return _without(file.params, file.untrained).get("encoder", {})


def untrained(task: SegmentConfig, config: SamConfig) -> tuple[str, ...]:
    """What its prompts do not train, of a run that resumes; its first files may be gone."""
    try:
        return read(task, config).untrained
    except EsamError:
        return _never_trained(task, config)  # claim nothing for what cannot be read


def _never_trained(task: SegmentConfig, config: SamConfig) -> tuple[str, ...]:
    """What the prompts of a task leave as it was, whatever that is."""
    decoder = task.train != "lora"
    later = decoder and rounds.later(task) > 0
    backgrounds = decoder and task.clicks > 0 and task.click_labels == "both"
    pointless = decoder and task.text is not None  # no first prompt is a point or a box
    parts = {
        "prompt/foreground": pointless and task.clicks == 0,
        "prompt/top_left": pointless,
        "prompt/bottom_right": pointless,
        "prompt/background": config.decoder.background == "learned" and not backgrounds,
        "prompt/mask": config.decoder.mask_prompts == "learned" and not later,
        "prompt/text": config.decoder.text_width is not None and not (decoder and task.text),
        provenance.SINGLE_MASK: not (later and task.answers == "single"),
    }
    return tuple(part for part, left in parts.items() if left)


def model_file(init_from: str, model: str) -> ModelFile:
    """The model of a run or folder to start from; of a run with several, the one of this name.

    MissingError or CheckpointError where it cannot be read.
    """
    inside = Path(init_from, "model", model)
    return load.model_file(inside if model_folder.is_model_folder(inside) else init_from)


def _model(init_from: str, model: str, config: SamConfig) -> ModelFile:
    """`model_file`, where it fits the `config`.

    Of a pretrained ViT, or a classifier, only the trunk is there, and the rest is named as
    untrained; so is what `config` extends the model by (background points, mask prompts), which is
    drawn as zeros where the wiring says so.
    """
    file = _pretrained(model_file(init_from, model))
    found, wanted = file.config, config
    if isinstance(found, _VIT) and isinstance(config.encoder, SamVitConfig):
        return _sam_from_mae(init_from, file, model, config)
    if isinstance(found, _VIT) and isinstance(config.encoder, VitConfig):
        found, wanted = map(timm_vit.pretrained, (found.encoder, config.encoder))
    absent = _absent(found.decoder, config.decoder) if isinstance(found, SamConfig) else []
    if isinstance(found, SamConfig):
        found, file = _fitted(found, file, config.decoder)
    if found != wanted:
        raise CheckpointError(
            f"task.init_from {init_from} holds another model than {model!r}: "
            f"{load.differences(found, wanted)}; name the model that it holds, or other "
            "weights to start from"
        )
    if isinstance(file.config, _VIT):
        trunk = {"encoder": file.params["encoder"]}
        return dataclasses.replace(file, config=config, params=trunk, untrained=BEHIND_TRUNK)
    return dataclasses.replace(file, config=config, untrained=(*file.untrained, *absent))


def _pretrained(file: ModelFile) -> ModelFile:
    """A classifier as the pretrained ViT that it has in it; any other model as it is."""
    if not isinstance(file.config, ClassifierConfig):
        return file
    params = classifier.of_imagenet_pixels(file.config, file.params)
    params = {name: params[name] for name in ("encoder", "class_token", "norm")}
    return dataclasses.replace(file, config=MaeConfig(encoder=file.config.encoder), params=params)


def _fitted(
    found: SamConfig, file: ModelFile, wanted: DecoderConfig
) -> tuple[SamConfig, ModelFile]:
    """The config with what `wanted` extends it by, and both less text prompts that it has not."""
    lacking = {field for field in _OPTIONAL if getattr(found.decoder, field) in _NONE}
    if found.decoder.text_width is not None and wanted.text_width is None:
        lacking.add("text_width")
        left = tuple(f"prompt/{branch}" for branch in _OPTIONAL["text_width"])
        untrained = tuple(part for part in file.untrained if part not in left)
        file = dataclasses.replace(file, params=_without(file.params, left), untrained=untrained)
    fields = {field: getattr(wanted, field) for field in lacking}
    return dataclasses.replace(found, decoder=dataclasses.replace(found.decoder, **fields)), file


def _sam_from_mae(init_from: str, file: ModelFile, model: str, config: SamConfig) -> ModelFile:
    """The trunk of one of SAM's encoders from a pretrained ViT of the same blocks."""
    found, wanted = file.config, config.encoder
    assert isinstance(found, _VIT) and isinstance(wanted, SamVitConfig)
    blocks = mae_trunk.like(found.encoder, wanted)
    if found.encoder != blocks:
        raise CheckpointError(
            f"task.init_from {init_from} holds another ViT than the encoder of {model!r}: "
            f"{load.differences(found.encoder, blocks)}; name one of those blocks"
        )
    encoder = mae_trunk.of_sam(file.params["encoder"], found.encoder, wanted)
    return dataclasses.replace(
        file, config=config, params={"encoder": encoder}, untrained=BEHIND_TRUNK
    )


def _decoder(decoder_from: str, model: str, config: SamConfig) -> ModelFile:
    """A model's prompt encoder and mask decoder, less what `config` has no place for, and a neck.

    What `config` has beyond them (background points, mask prompts) is named as untrained.
    """
    file, wanted = load.model_file(decoder_from), config.decoder
    if not isinstance(file.config, SamConfig) or set(_DECODER) & set(file.untrained):
        raise CheckpointError(
            f"task.decoder_from {decoder_from} holds no trained mask decoder: name a SAM or a run "
            "of promptable training"
        )
    # Parameters have the same names and shapes whatever these fields say.
    free = {field: getattr(wanted, field) for field in ("wiring", *_OPTIONAL)}
    found = dataclasses.replace(file.config.decoder, **free)
    if found != wanted:
        raise CheckpointError(
            f"task.decoder_from {decoder_from} holds another mask decoder than task.model "
            f"{model!r}: {load.differences(found, wanted)}; name a SAM whose decoder fits"
        )
    prompt, absent = dict(file.params["prompt"]), _absent(file.config.decoder, wanted)
    for field, branches in _OPTIONAL.items():
        if getattr(wanted, field) in _NONE:
            for branch in branches:
                prompt.pop(branch, None)
    kernel = np.zeros((3, 3, wanted.width, wanted.width), np.float32)
    kernel[1, 1] = np.eye(wanted.width)
    smooth_norm = file.params["encoder"]["neck"]["smooth_norm"]
    neck = {"smooth": {"kernel": kernel}, "smooth_norm": smooth_norm}
    return dataclasses.replace(
        file,
        params={"encoder": {"neck": neck}, "prompt": prompt, "decoder": file.params["decoder"]},
        untrained=(*file.untrained, *absent),
    )


def _absent(found: DecoderConfig, wanted: DecoderConfig) -> list[str]:
    """Branches of the prompt encoder that `wanted` has and `found` has not."""
    return [
        f"prompt/{branch}"
        for field, branches in _OPTIONAL.items()
        if getattr(wanted, field) not in _NONE and getattr(found, field) in _NONE
        for branch in branches
    ]


def _without(params: Params, paths: tuple[str, ...], prefix: str = "") -> Params:
    """The nested dict less the named branches."""
    kept = {}
    for name, value in params.items():
        path = prefix + name
        if path in paths:
            continue
        kept[name] = _without(value, paths, path + "/") if isinstance(value, dict) else value
    return kept
