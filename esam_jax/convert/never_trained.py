"""The note about parts that were never trained, in files of layouts that have no place for it.

safetensors files carry it in their metadata, PyTorch files in the `_metadata` of the state dict,
which `load_state_dict(strict=True)` reads nothing of but the versions of modules by their names.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from esam_jax.convert.formats import bounds
from esam_jax.errors import CheckpointError
from esam_jax.typing import Params

KEY = "esam_jax.untrained"
SINGLE_MASK = "decoder/single_mask"  # mask token 0: slices of arrays shared with the candidates


def note(untrained: Iterable[str], params: Params) -> dict[str, str]:
    """Metadata that names the parts that these parameters have; empty where there are none."""
    parts = present(untrained, params)
    return {KEY: json.dumps(parts)} if parts else {}


def noted(metadata: Mapping[str, str], params: Params, where: str) -> tuple[str, ...]:
    """The parts that a note names; CheckpointError if it is malformed."""
    try:
        parts = json.loads(metadata.get(KEY, "[]"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: {KEY} is not JSON ({bounds.reason(error)}); convert it again"
        ) from error
    require_texts(parts, f"{where}: {KEY}")
    return present(parts, params)


def require_texts(parts: Any, what: str) -> None:
    """CheckpointError unless it is a list of texts."""
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise CheckpointError(f"{what} must be a list of text; convert it again")


def present(untrained: Iterable[str], params: Params) -> tuple[str, ...]:
    """Those of the parts that these parameters have."""
    return tuple(part for part in untrained if _is_present(part, params))


def _is_present(part: str, params: Params) -> bool:
    at: Any = params
    for name in ("decoder",) if part == SINGLE_MASK else part.split("/"):
        if not isinstance(at, Mapping) or name not in at:
            return False
        at = at[name]
    return True
