"""The PyTorch originals of our networks, with the tensors of a file as their own code takes them.

One builder for each family of checkpoints whose code is a package that may be installed. The state
dict goes in under the file's own names, strictly, so that our tables of names are compared, too.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from esam_jax.config import (
    ClassifierConfig,
    ClipConfig,
    DecoderConfig,
    MaeConfig,
    ModelConfig,
    RegNetConfig,
    SamConfig,
    SamVitConfig,
    TinyVitConfig,
    VitConfig,
)
from esam_jax.convert.families import (
    clip_transformers_config,
    registry,
    sam_transformers_config,
)
from esam_jax.convert.families.family import State
from esam_jax.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Original:
    """A network in PyTorch, on the CPU in float32; all arrays are NumPy's.

    `encode` takes normalised pixels [1, H, W, 3]. `decode` takes its features, points [1, Q, P, 2]
    in pixels of the input with labels [1, Q, P], or boxes [1, Q, 4], and gives the candidates'
    logits [1, Q, M, l, l] and scores [1, Q, M]. CLIP's `encode` gives one row of features, and its
    `read` those of texts, from their tokens.
    """

    about: str
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None
    read: Callable[[np.ndarray], np.ndarray] | None = None


def of(family: str, config: ModelConfig, state: State) -> Original | None:
    """The original of a family's network, or None where its package is not installed or does not
    have this network; CheckpointError where it refuses these tensors."""
    if family not in _BUILDERS:
        return None
    package, build = _BUILDERS[family]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages about each other
            import torch

            model, original = build(config, state)
    except Exception:  # not installed, or no such network; a broken installation raises anything
        return None
    tensors = {name: torch.tensor(np.asarray(x, _dtype(x))) for name, x in state.items()}
    _load(model, tensors, family, config, package)
    model.eval()
    versions = f"{package} {_version(package)}, torch {torch.__version__}"
    return dataclasses.replace(original, about=versions)


def package(family: str) -> str | None:
    """What to install for the originals of a family."""
    return _BUILDERS[family][0] if family in _BUILDERS else None


class _NotReleasedError(Exception):
    """The package's code makes no network of this size."""


def _load(model: Any, tensors: Mapping[str, Any], family: str, config: Any, package: str) -> None:
    """load_state_dict, strict but for what the masks do not depend on."""
    rules = registry.get(family)
    complete = {name: x for name, x in tensors.items() if name not in rules.repeated}
    for second, first in rules.aliases.items():
        complete.setdefault(second, tensors[first]) if first in tensors else None
    try:
        missing, unexpected = model.load_state_dict(complete, strict=False)
    except RuntimeError as error:  # of another shape
        raise CheckpointError(f"{package} refuses these tensors: {error}") from error
    needed = set(missing) - set(rules.unused(config))
    if needed or unexpected:
        raise CheckpointError(
            f"{package} refuses these tensors: it lacks {sorted(needed)}, and does not know "
            f"{sorted(unexpected)}"
        )


def _dtype(array: np.ndarray) -> Any:
    return array.dtype if array.dtype.kind == "i" else np.float32


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # on PYTHONPATH
        return "(not packaged)"


def _call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A call with arrays in and out, without gradients."""
    import torch

    with torch.no_grad():
        found = function(*(torch.tensor(x) for x in arguments), **options)
    parts = found if isinstance(found, tuple | list) else (found,)
    arrays = tuple(part.numpy() for part in parts)
    return arrays if isinstance(found, tuple | list) else arrays[0]


def _encoder(function: Callable[..., Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Channels last on our side, first on theirs."""
    return lambda pixels: _call(function, pixels.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)


# --------------------------------------------------------------------------- transformers


def _transformers(config: SamConfig, state: State) -> tuple[Any, Original]:
    import transformers

    settings = transformers.SamConfig.from_dict(sam_transformers_config.config_json(config))
    model = transformers.SamModel(settings)

    def decode(
        features: np.ndarray, points: Any = None, labels: Any = None, boxes: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        given = {"input_points": points, "input_labels": labels, "input_boxes": boxes}
        asked = {name: torch.tensor(x) for name, x in given.items() if x is not None}
        with torch.no_grad():
            answer = model(
                image_embeddings=torch.tensor(features.transpose(0, 3, 1, 2)),
                multimask_output=True,
                **asked,
            )
        return answer.pred_masks.numpy(), answer.iou_scores.numpy()

    return model, Original("", _encoder(model.get_image_embeddings), decode)


def _clip(config: ClipConfig, state: State) -> tuple[Any, Original]:
    import transformers

    settings = transformers.CLIPConfig.from_dict(clip_transformers_config.config_json(config))
    model = transformers.CLIPModel(settings)

    def encode(pixels: Any) -> Any:
        return model.visual_projection(model.vision_model(pixels).pooler_output)

    def read(tokens: Any) -> Any:
        return model.text_projection(model.text_model(tokens.long()).pooler_output)

    original = Original(
        "",
        lambda pixels: _call(encode, pixels.transpose(0, 3, 1, 2)),
        read=lambda tokens: _call(read, tokens),
    )
    return model, original


# ------------------------------------------- segment-anything, and MobileSAM, which is built on it


def _segment_anything(config: SamConfig, state: State) -> tuple[Any, Original]:
    import torch

    parts: Any = importlib.import_module("segment_anything.modeling")

    encoder = config.encoder
    assert isinstance(encoder, SamVitConfig)
    image_encoder = parts.ImageEncoderViT(
        depth=encoder.depth,
        embed_dim=encoder.width,
        img_size=encoder.image_px,
        mlp_ratio=encoder.mlp_ratio,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=encoder.heads,
        patch_size=encoder.patch_px,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=encoder.global_blocks,
        window_size=encoder.window,
        out_chans=encoder.neck_width,
    )
    return _sam(parts, image_encoder, config)


def _mobile_sam(config: SamConfig, state: State) -> tuple[Any, Original]:
    parts: Any = importlib.import_module("mobile_sam.modeling")

    encoder, head = config.encoder, state.get("image_encoder.head.weight")
    assert isinstance(encoder, TinyVitConfig)
    image_encoder = parts.TinyViT(
        img_size=encoder.image_px,
        num_classes=1000 if head is None else head.shape[0],
        embed_dims=list(encoder.widths),
        depths=list(encoder.depths),
        num_heads=list(encoder.all_heads),
        window_sizes=list(encoder.windows),
        drop_path_rate=0.0,
    )
    return _sam(parts, image_encoder, config)


def _sam(parts: Any, image_encoder: Any, config: SamConfig) -> tuple[Any, Original]:
    """SAM of either package, whose prompt encoder and mask decoder are the same."""
    grid, decoder = config.encoder.grid, config.decoder
    model = parts.Sam(
        image_encoder=image_encoder,
        prompt_encoder=parts.PromptEncoder(
            embed_dim=decoder.width,
            image_embedding_size=(grid, grid),
            input_image_size=(config.image_px, config.image_px),
            mask_in_chans=decoder.mask_channels,
        ),
        mask_decoder=parts.MaskDecoder(
            num_multimask_outputs=decoder.mask_tokens - 1,
            transformer=parts.TwoWayTransformer(
                depth=decoder.depth,
                embedding_dim=decoder.width,
                mlp_dim=decoder.mlp_width,
                num_heads=decoder.heads,
            ),
            transformer_dim=decoder.width,
            iou_head_depth=3,
            iou_head_hidden_dim=decoder.iou_width,
        ),
    )

    def answer(features: Any, *prompt: Any, boxed: bool) -> Any:
        points, boxes = (None, prompt[0][0]) if boxed else ((prompt[0][0], prompt[1][0]), None)
        sparse, dense = model.prompt_encoder(points=points, boxes=boxes, masks=None)
        masks, scores = model.mask_decoder(
            image_embeddings=features,
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return masks[None], scores[None]

    def decode(
        features: np.ndarray, points: Any = None, labels: Any = None, boxes: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        prompt = (points, labels) if boxes is None else (boxes,)
        return _call(answer, features.transpose(0, 3, 1, 2), *prompt, boxed=boxes is not None)

    return model, Original("", _encoder(model.image_encoder), decode)


# --------------------------------------------------------------------------- EfficientSAM


def _efficientsam(config: SamConfig, state: State) -> tuple[Any, Original]:
    package: Any = importlib.import_module("efficient_sam.efficient_sam")

    encoder, px = config.encoder, config.image_px
    assert isinstance(encoder, VitConfig)
    released = VitConfig(width=encoder.width, heads=encoder.heads)
    if (encoder, config.decoder) != (released, DecoderConfig(wiring="efficientsam")):
        raise _NotReleasedError
    model = package.build_efficient_sam(encoder.width, encoder.heads)

    def decode(
        features: np.ndarray, points: Any = None, labels: Any = None, boxes: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        if boxes is not None:  # a box is two points, labelled as corners
            points = boxes.reshape(*boxes.shape[:2], 2, 2)
            labels = np.broadcast_to(np.array([2, 3]), points.shape[:3]).copy()
        return _call(
            functools.partial(
                model.predict_masks, multimask_output=True, input_h=px, input_w=px
            ),
            features.transpose(0, 3, 1, 2), points, labels,
        )  # fmt: skip

    return model, Original("", _encoder(model.image_encoder), decode)


# --------------------------------------------------------------------------------- timm


def _timm(config: MaeConfig, state: State) -> tuple[Any, Original]:
    package: Any = importlib.import_module("timm.models.vision_transformer")

    if config.decoder is not None:  # timm has no MAE
        raise _NotReleasedError
    encoder = config.encoder
    model = package.VisionTransformer(
        img_size=encoder.image_px,
        patch_size=encoder.patch_px,
        num_classes=0,
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=encoder.mlp_ratio,
    )

    def encode(pixels: np.ndarray) -> np.ndarray:
        return _call(model.forward_features, pixels.transpose(0, 3, 1, 2))

    return model, Original("", encode)


def _timm_classifier(config: ClassifierConfig, state: State) -> tuple[Any, Original]:
    package: Any = importlib.import_module("timm.models.vision_transformer")

    encoder = config.encoder
    make, pool = package.VisionTransformer, {"mean": "avg"}.get(config.pool, "token")
    if config.pool == "distilled":
        make = importlib.import_module("timm.models.deit").VisionTransformerDistilled
    model = make(
        img_size=encoder.pretrain_px,
        patch_size=encoder.patch_px,
        num_classes=config.classes,
        global_pool=pool,
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=encoder.mlp_ratio,
    )
    return model, _of_logits(model)


def _timm_regnet(config: RegNetConfig, state: State) -> tuple[Any, Original]:
    package: Any = importlib.import_module("timm.models.regnet")

    for name in _REGNETS:
        model = getattr(package, name)(num_classes=config.classes)
        if {x: tuple(y.shape) for x, y in model.state_dict().items()} == _shapes(state):
            return model, _of_logits(model)
    raise _NotReleasedError


_REGNETS = ("regnety_160", "regnety_002")  # DeiT's teacher, and the smallest, of golden weights


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in state.items()}


def _of_logits(model: Any) -> Original:
    return Original("", lambda pixels: _call(model, pixels.transpose(0, 3, 1, 2)))


# Family -> what pip or a person calls the package, and what makes the network.
_BUILDERS: Mapping[str, tuple[str, Callable[[Any, State], tuple[Any, Original]]]] = {
    "sam_transformers": ("transformers", _transformers),
    "clip_transformers": ("transformers", _clip),
    "sam": ("segment_anything", _segment_anything),
    "mobile_sam": ("mobile_sam", _mobile_sam),
    "efficientsam": ("efficient_sam", _efficientsam),
    "mae": ("timm", _timm),
    "vit_classifier": ("timm", _timm_classifier),
    "regnet": ("timm", _timm_regnet),
}
