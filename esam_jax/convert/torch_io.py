"""PyTorch state dicts (`.pt`, `.pth`, `.safetensors`) to parameters and back, strict both ways.

Pickles are read with `weights_only=True` and never otherwise: nothing in a file is run.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.traverse_util
import numpy as np
import safetensors

from esam_jax.config import DecoderConfig, SamConfig, SamVitConfig, VitConfig
from esam_jax.convert import keymap, model_folder
from esam_jax.errors import CheckpointError, ConfigError, MissingError
from esam_jax.typing import Params

OLDEST_TORCH = (2, 10)  # before it, weights_only has known holes (CVE-2025-32434, CVE-2026-24747)

State = Mapping[str, np.ndarray]
Wiring = Literal["efficientsam", "sam"]


def read(path: str | Path, config: SamConfig | None = None) -> tuple[SamConfig, Params]:
    """Config and parameters of a PyTorch checkpoint; the config is detected unless given.

    MissingError when the file is not there, CheckpointError when it is damaged, holds anything but
    tensors or is of no known model.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"no file at {str(path)!r}")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    config = detect(state) if config is None else config
    return config, from_state_dict(state, config)


def from_state_dict(state: State, config: SamConfig) -> Params:
    """Nested float32 parameters; one CheckpointError lists all that does not fit the config."""
    links = list(keymap.links(config))
    _check(state, _torch_shapes(links, config))
    flat = {}
    for link in links:
        arrays = link.forward([np.asarray(state[name], np.float32) for name in link.torch])
        flat |= {p: np.ascontiguousarray(x) for p, x in zip(link.params, arrays, strict=True)}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def to_state_dict(params: Params, config: SamConfig) -> dict[str, np.ndarray]:
    """The state dict that PyTorch's own model of this config loads; exact inverse of the above.

    What EfficientSAM's release does not have (a background point, mask prompts) gets names of its
    own: its `load_state_dict` then refuses the file by those names.
    """
    flat = {k: np.asarray(x) for k, x in flax.traverse_util.flatten_dict(params, sep="/").items()}
    model_folder.check_shapes({k: x.shape for k, x in flat.items()}, config, "these parameters")
    state = {}
    for link in keymap.links(config):
        tensors = link.backward([flat[name] for name in link.params])
        state |= {t: np.ascontiguousarray(x) for t, x in zip(link.torch, tensors, strict=True)}
    return state


# ---------------------------------------------------------------------------------- checking


def _torch_shapes(links: list[keymap.Link], config: SamConfig) -> dict[str, tuple[int, ...]]:
    ours = model_folder.expected_shapes(config)
    shapes = {}
    for link in links:
        shape = link.torch_shape([ours[name] for name in link.params])
        shapes |= dict.fromkeys(link.torch, shape)
    return shapes


def _check(state: State, wanted: Mapping[str, tuple[int, ...]]) -> None:
    both = sorted(state.keys() & wanted.keys())
    fitting = [name for name in both if tuple(state[name].shape) == wanted[name]]
    floats = [
        name for name in fitting if state[name].dtype.name in ("float32", "float16", "bfloat16")
    ]
    faults = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unexpected": sorted(state.keys() - wanted.keys()),
        "of another shape": [
            f"{name} is {tuple(state[name].shape)}, not {wanted[name]}"
            for name in both
            if tuple(state[name].shape) != wanted[name]
        ],
        "not of 16 or 32 bit floats": sorted(set(fitting) - set(floats)),
        "holding NaN or infinity": [n for n in floats if not np.isfinite(state[n]).all()],
    }
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
    if listed:
        raise CheckpointError(f"the state dict does not fit the model; {listed}")


# --------------------------------------------------------------------------------- detecting


@dataclasses.dataclass(frozen=True)
class _Unwritten:
    """What shapes do not tell; `image_px` is asked for in the efficientsam wiring alone."""

    encoder_heads: int
    decoder_heads: int = 8
    image_px: int = 1024


_BY_ENCODER_WIDTH = {
    48: _Unwritten(3, image_px=256),  # the small networks of tests/golden
    64: _Unwritten(2, decoder_heads=4, image_px=64),  # efficientsam_nano
    96: _Unwritten(3, decoder_heads=4, image_px=64),  # sam_nano
    192: _Unwritten(3),
    384: _Unwritten(6),
    768: _Unwritten(12),
    1024: _Unwritten(16),
    1280: _Unwritten(16),
}


def detect(state: State) -> SamConfig:
    """The config of a state dict, by its names and shapes; CheckpointError if it is no known model.

    Head counts leave no trace in the weights: they go by the encoder's width.
    """
    wiring: Wiring
    if "prompt_encoder.invalid_points.weight" in state:
        wiring = "efficientsam"
    elif "prompt_encoder.not_a_point_embed.weight" in state:
        wiring = "sam"
    else:
        raise CheckpointError(
            "this is no state dict of EfficientSAM or of SAM's ViT-B, L or H: neither "
            "prompt_encoder.invalid_points.weight nor prompt_encoder.not_a_point_embed.weight "
            "is in it"
        )
    width = _size(state, "image_encoder.pos_embed", -1)
    if width not in _BY_ENCODER_WIDTH:
        raise CheckpointError(
            f"an encoder of width {width} is not known, and weights do not tell its heads: name "
            "the model, or give torch_io.read its config"
        )
    unwritten = _BY_ENCODER_WIDTH[width]
    try:
        encoder = _vit(state, unwritten) if wiring == "efficientsam" else _sam_vit(state, unwritten)
        return SamConfig(encoder=encoder, decoder=_decoder(state, wiring, unwritten))
    except ConfigError as error:
        raise CheckpointError(f"the shapes of this state dict contradict: {error}") from error


def _vit(state: State, unwritten: _Unwritten) -> VitConfig:
    common = _encoder(state, "fc1", unwritten)
    slots = _size(state, "image_encoder.pos_embed", 1)
    return VitConfig(
        **common,
        image_px=unwritten.image_px,
        pretrain_px=math.isqrt(max(slots - 1, 0)) * common["patch_px"],
    )


def _sam_vit(state: State, unwritten: _Unwritten) -> SamVitConfig:
    common = _encoder(state, "lin1", unwritten)
    grid = _size(state, "image_encoder.pos_embed", 1)
    reach = [
        (_size(state, f"image_encoder.blocks.{i}.attn.rel_pos_h", 0) + 1) // 2
        for i in range(common["depth"])
    ]
    return SamVitConfig(
        **common,
        image_px=grid * common["patch_px"],
        window=min(reach),
        global_blocks=tuple(i for i, cells in enumerate(reach) if cells != min(reach)),
    )


def _encoder(state: State, hidden: str, unwritten: _Unwritten) -> dict[str, Any]:
    width = _size(state, "image_encoder.pos_embed", -1)
    return {
        "width": width,
        "heads": unwritten.encoder_heads,
        "depth": _count(state, "image_encoder.blocks."),
        "mlp_ratio": _size(state, f"image_encoder.blocks.0.mlp.{hidden}.weight", 0) // width,
        "patch_px": _size(state, "image_encoder.patch_embed.proj.weight", -1),
        "neck_width": _size(state, "image_encoder.neck.0.weight", 0),
    }


def _decoder(state: State, wiring: Wiring, unwritten: _Unwritten) -> DecoderConfig:
    first = "layers.0.0" if wiring == "efficientsam" else "layers.0"
    hidden = "layers.0.0" if wiring == "efficientsam" else "lin1"
    background = wiring == "sam" or "prompt_encoder.background_embeddings.weight" in state
    masks = wiring == "sam" or "prompt_encoder.no_mask_embed.weight" in state
    stem = "prompt_encoder.mask_downscaling.6.weight"
    return DecoderConfig(
        wiring=wiring,
        width=_size(state, "mask_decoder.iou_token.weight", 1),
        depth=_count(state, "mask_decoder.transformer.layers."),
        heads=unwritten.decoder_heads,
        mlp_width=_size(state, f"mask_decoder.transformer.layers.0.mlp.{hidden}.weight", 0),
        iou_width=_size(state, f"mask_decoder.iou_prediction_head.{first}.weight", 0),
        mask_tokens=_size(state, "mask_decoder.mask_tokens.weight", 0),
        mask_channels=_size(state, stem, 1) if masks else 16,
        background="learned" if background else "none",
        mask_prompts="learned" if masks else "none",
    )


def _size(state: State, name: str, axis: int) -> int:
    if name not in state:
        raise CheckpointError(f"the state dict lacks {name}, which tells the model's size")
    shape = state[name].shape
    if not -len(shape) <= axis < len(shape) or shape[axis] == 0:
        raise CheckpointError(f"{name} has shape {tuple(shape)}, which is no model's")
    return shape[axis]


def _count(state: State, prefix: str) -> int:
    """Blocks by the highest number, so that one that is missing is noticed."""
    numbers = [re.match(re.escape(prefix) + r"(\d{1,4})\.", name) for name in state]
    highest = max((int(match[1]) for match in numbers if match), default=-1)
    if not 0 <= highest < len(state):
        raise CheckpointError(f"the state dict has no {prefix}0, or not all up to {highest}")
    return highest + 1


# ------------------------------------------------------------------------------------- files


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no whole safetensors file ({error}); copy it anew"
        ) from error


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise CheckpointError(
            f"{path} is refused: it is damaged, or holds more than tensors ({error})"
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, but must hold a state dict")
    odd = [str(k) for k, x in loaded.items() if not (isinstance(k, str) and _is_dense(torch, x))]
    if odd:
        raise CheckpointError(f"{path} holds what is no tensor: {', '.join(sorted(odd))}")
    return {name: _to_numpy(torch, tensor) for name, tensor in loaded.items()}


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"reading {path} takes PyTorch: pip install 'esam_jax[convert]', or save the weights "
            "as .safetensors"
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        raise CheckpointError(
            f"PyTorch {torch.__version__} may run code hidden in {path}: upgrade it to "
            f"{'.'.join(map(str, OLDEST_TORCH))} or later"
        )
    return torch


def _is_dense(torch: Any, value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.numpy()
