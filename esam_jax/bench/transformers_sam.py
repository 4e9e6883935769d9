"""transformers' `SamModel` with our weights, in PyTorch's own fused attention."""

from typing import Any

import jax
import numpy as np

from esam_jax.convert.families import sam_transformers
from esam_jax.errors import ConfigError, MissingError
from esam_jax.evaluate import parity_sam
from esam_jax.ops import images
from esam_jax.predict.sam import Sam


def make(sam: Sam) -> "Transformers":
    """A rival (bench/baselines.py) with the weights of `sam`, on the kind of device JAX uses.

    MissingError without torch and transformers; ConfigError for a model that SamModel is not, and
    for a torch that cannot use the device.
    """
    reason = sam_transformers.FAMILY.refuses(sam.config)
    if reason is not None:
        raise ConfigError(
            f"--against torch is transformers' SamModel, which this model is not ({reason}): "
            "name a SAM model, or --against tests/bench/plain_torch.py:efficientsam"
        )
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingError(
            f"--against torch needs torch and transformers ({error}): pip install torch "
            "'transformers>=5.20'"
        ) from error
    device = torch_device()
    return Transformers(sam, getattr(torch, sam.model.compute.dtype), device)


def torch_device() -> Any:
    """PyTorch's name for the device that JAX computes on; ConfigError where it cannot use it."""
    import torch

    backend = jax.default_backend()
    if backend == "cpu":
        return torch.device("cpu")
    if backend == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise ConfigError(
        f"--against: JAX computes on a {backend}, which the torch installed here cannot use: "
        "install torch for it, or set JAX_PLATFORMS=cpu"
    )


class Transformers:
    """SamModel called as `baselines` says; it prepares and enlarges on its device, too."""

    def __init__(self, sam: Sam, dtype: Any, device: Any) -> None:
        import torch

        self._torch, self._dtype, self._device = torch, dtype, device
        self._model = parity_sam.transformers_model(sam.params, sam.config).to(device, dtype)
        mean, std = (torch.tensor(x, device=device) for x in (images.MEAN, images.STD))
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    def put(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(array).to(self._device)

    def encode(self, pictures: Any) -> Any:
        pixels = pictures.permute(0, 3, 1, 2).float() / 255
        pixels = ((pixels - self._mean) / self._std).to(self._dtype)
        with self._torch.inference_mode():
            return self._model.get_image_embeddings(pixels)

    def decode(self, embedding: Any, points: Any, labels: Any) -> tuple[Any, Any]:
        boxes = points.flatten(2).to(self._dtype)
        with self._torch.inference_mode():
            answer = self._model(
                image_embeddings=embedding, input_boxes=boxes, multimask_output=True
            )
        return answer.pred_masks, answer.iou_scores

    def __call__(self, pictures: Any, points: Any, labels: Any) -> np.ndarray:
        side = pictures.shape[1:3]
        given = [self.put(array) for array in (pictures, points, labels)]
        low_res, _ = self.decode(self.encode(given[0]), *given[1:])
        with self._torch.inference_mode():
            full = self._torch.nn.functional.interpolate(
                low_res.flatten(0, 1).float(), side, mode="bilinear", align_corners=False
            )
            return (full > 0).unflatten(0, low_res.shape[:2]).cpu().numpy()
