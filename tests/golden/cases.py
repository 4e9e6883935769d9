"""The golden cases: what the PyTorch originals gave, and the network of ours to hold against it.

Limits are those suggested with the measurements: some ten times the rounding floor of float32 in
the originals themselves. A relative error is the largest difference over the root mean square of
what is expected.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from helpers import quick, unrolled

from esam_jax.config import SamConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families import registry
from esam_jax.evaluate import golden
from esam_jax.models.sam.network import Sam
from esam_jax.models.sam.prompt_encoder import PromptEncoder

LIMITS = {
    "encoder_input_sample": 5e-6,
    "low_res_sample": 1e-4,
    "single_low_res_sample": 1e-4,
    "full_sample": 3e-4,
    "mask_pixels": 2e-4,
}
RELATIVE_LIMIT = 5e-5  # of every other array; the same number, absolute, for IoU and losses

measured: dict[str, float] = {}  # the worst of each quantity so far, for a report


load = golden.load


def network_of(case: golden.Case) -> "Network":
    """The network of a case, with its weights."""
    return network(case.meta["listing"], case.meta["seed"], case.scaled)


class Network:
    """A model with golden weights, compiled so that it also gives what happens inside."""

    def __init__(self, config: SamConfig, params: Any) -> None:
        self.config, self.params = config, jax.device_put(params)
        self._look = _watched(config, "encode", _encoder_taps)
        self._encode = None
        if config.image_px < 1024:  # two programs of a full-size model would take minutes
            self._encode = jax.jit(functools.partial(Sam(config).apply, method="encode"))
        self._decode = _watched(config, "decode", _decoder_taps)

    def encode(self, pixels_BHWC: Any) -> tuple[Any, dict[str, Any]]:
        """The embedding, and {"patch_plus_pos", "after_block_0", ...}, or MobileSAM's stages.

        Of the same blocks as everybody runs in a loop, which lets nobody look inside, in a row; the
        embedding of a small model is that of the loop. One picture at a time, so that a case with
        two needs no compilation of its own.
        """
        each = []
        for pixels in pixels_BHWC:
            embedding, seen = self._look(self.params, pixels[None])
            if self._encode is not None:
                embedding = self._encode({"params": self.params}, pixels[None])
            each.append((embedding, seen))
        return jax.tree.map(lambda *x: np.concatenate(x), *each)

    def decode(
        self, embedding: Any, points: Any, labels: Any, mask: Any = None
    ) -> tuple[Any, dict]:
        """(logits, IoU) of all mask tokens, and {"sparse", "dense", "decoder_tokens", ...}."""
        return self._decode(self.params, embedding, points, labels, mask)

    @property
    def dense_position(self) -> Any:
        """The position code of the grid, as of one picture."""
        encoder = PromptEncoder(self.config)
        params = {"params": self.params["prompt"]}
        return encoder.apply(params, method="dense_position")[None]


@functools.lru_cache(maxsize=2)
def _watched(config: SamConfig, method: str, tap: Any) -> Any:
    """`method`, compiled, which also gives what `tap` picks from the calls of its modules."""
    model = Sam(config)

    def run(params, *inputs):
        seen = {}

        def intercept(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "__call__":
                tap(seen, context.module, args, out)
            return out

        with nn.intercept_methods(intercept), unrolled.blocks():
            out = model.apply({"params": params}, *inputs, method=method)
        return out, seen

    # The small networks take far longer to compile than to run.
    return jax.jit(run) if config.image_px >= 1024 else quick.jit(run)


def _encoder_taps(seen: dict, module: nn.Module, args: tuple, out: Any) -> None:
    name = module.name or ""
    if name.startswith("stage_"):
        if name == "stage_0":
            seen["patch_embed"] = args[0]
        seen[f"after_layers_{int(name[6:])}"], _ = out  # with the statistics of its norms
    elif module.path[-2:] == ("stage_1", "block_00"):
        seen["after_layers_1_block_0"], _ = out
    elif name.startswith("block_") and module.path[-2] == "encoder":
        if name == "block_00":
            seen["patch_plus_pos"] = args[0]
        seen[f"after_block_{int(name[6:])}"] = out


def _decoder_taps(seen: dict, module: nn.Module, args: tuple, out: Any) -> None:
    if module.name == "prompt":
        seen["sparse"], seen["dense"] = out
    if module.name == "two_way":
        seen["decoder_tokens"], seen["decoder_image"] = out


@functools.lru_cache(maxsize=1)
def network(listing: str, seed: int, scaled: tuple) -> Network:
    """The last one is kept: tests go case by case, so no full-size weights are made twice."""
    state = golden.state_dict(listing, seed, scaled)
    family = registry.recognise(state)
    config = state_dict.detect(state, family)
    params, _ = state_dict.to_params(state, family, config)
    return Network(config, params)


# --------------------------------------------------------------------------------- comparing


def limit(quantity: str) -> float:
    """What an error may be: absolute for IoU and losses, a share for masks, else relative."""
    return LIMITS.get(quantity, RELATIVE_LIMIT)


def check(name: str, got: Any, expected: np.ndarray) -> None:
    """Asserts that an array lies within the limit of its quantity (the name after the last "/")."""
    got, quantity = np.asarray(got), name.rsplit("/", 1)[-1]
    assert got.shape == expected.shape, (name, got.shape, expected.shape)
    worst = float(np.abs(got - expected).max(initial=0))
    absolute = quantity.endswith("iou") or quantity.startswith("loss")
    _hold(name, quantity, worst if absolute else worst / _rms(expected))


def _hold(name: str, quantity: str, error: float) -> None:
    measured[quantity] = max(measured.get(quantity, 0.0), error)
    assert error <= limit(quantity), (
        f"{name} is off by {error:.2e}, more than {limit(quantity):.0e}"
    )


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt((x.astype(np.float64) ** 2).mean())) if x.size else 1.0


def check_masks(
    name: str, logits: np.ndarray, mask: np.ndarray, wanted: dict[str, np.ndarray]
) -> None:
    """Asserts that nearly all pixels agree, and that the others are undecided."""
    areas = np.abs(mask.sum((-2, -1)) - wanted["full_mask_area"])
    assert areas.max() <= limit("mask_pixels") * mask.size, f"{name}: areas differ by {areas}"
    if mask.shape[-2] * mask.shape[-1] > 200_000:  # such files hold every 16th row
        logits, mask = logits[..., ::16, :], mask[..., ::16, :]
    bits = wanted["full_mask_bits"]
    expected = np.unpackbits(bits, axis=-1, count=mask.shape[-1]).astype(bool)
    assert mask.shape == expected.shape, name
    differ = mask != expected
    _hold(name, "mask_pixels", float(differ.mean()))
    assert np.abs(logits[differ]).max(initial=0) <= 1e-3, f"{name}: a clear pixel differs"


def sample_map(x_BhwC: Any) -> np.ndarray:
    """The positions of a channel-last map that files keep, channel first."""
    step = max(1, x_BhwC.shape[1] // 8)
    return np.asarray(x_BhwC)[:, 3::step, 5::step].transpose(0, 3, 1, 2)


def sample_tokens(x: Any, side: int, channel_step: int) -> np.ndarray:
    """The tokens that files keep, of any layout whose tokens are a square of `side`."""
    x_BhwC, step = np.asarray(x).reshape(-1, side, side, x.shape[-1]), max(1, side // 8)
    return x_BhwC[:, 3 % step :: step, 5 % step :: step, ::channel_step]


def check_encoder(
    pixels: np.ndarray, embedding: Any, seen: dict[str, Any], case: golden.Case
) -> None:
    """Asserts the input, every block that the file holds, and the embedding."""
    arrays, grid = case.arrays, embedding.shape[1]
    sample = pixels.transpose(0, 3, 1, 2)[:, :, 7::31, 11::29]
    check("encoder_input_sample", sample, arrays["encoder_input_sample"])
    if "patch_embed" in arrays:
        check("patch_embed", sample_map(seen["patch_embed"]), arrays["patch_embed"])
    # MobileSAM's maps are larger at first; in all others tokens lie as the embedding does.
    for key in (key for key in arrays if key.startswith(("patch_plus_pos", "after_"))):
        side = seen[key].shape[1] if "layers" in key else grid
        check(key, sample_tokens(seen[key], side, case.meta["token_channel_step"]), arrays[key])
    x = np.asarray(embedding)
    check("embedding_sample", sample_map(x), arrays["embedding_sample"])
    for key, reduce in (
        ("mean", np.mean),
        ("std", np.std),
        ("absmax", lambda x, axis: abs(x).max(axis)),
    ):
        check(
            f"embedding_channel_{key}", reduce(x, axis=(1, 2)), arrays[f"embedding_channel_{key}"]
        )
    check("dense_pe_sample", sample_map(network_of(case).dense_position), arrays["dense_pe_sample"])
