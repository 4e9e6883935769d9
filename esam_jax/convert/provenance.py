"""What a model folder says of its weights, as a note in files of layouts that have no place for it.

That is which parts were never trained, and the licence where the layout's release has another one.
safetensors files carry it in their metadata, PyTorch files in the `_metadata` of the state dict,
which `load_state_dict(strict=True)` reads nothing of but the versions of modules by their names.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from esam_jax.convert.formats import bounds
from esam_jax.errors import CheckpointError
from esam_jax.typing import Params

UNTRAINED, LICENCE = "esam_jax.untrained", "esam_jax.licence"
SINGLE_MASK = "decoder/single_mask"  # mask token 0: slices of arrays shared with the candidates
# Ends `source` of a model whose weights are the averages of a run (`optim.ema`).
AVERAGED = ", averaged weights"


def note(never_trained: Iterable[str], params: Params, licence: str, usual: str) -> dict[str, str]:
    """Metadata that names the untrained parts that these parameters have, and an unusual licence.

    Empty where there is neither.
    """
    parts = present(never_trained, params)
    found = {UNTRAINED: json.dumps(parts)} if parts else {}
    return found if licence == usual else {**found, LICENCE: licence}


def untrained(metadata: Mapping[str, str], params: Params, where: str) -> tuple[str, ...]:
    """The parts that a note names; CheckpointError if it is malformed."""
    try:
        parts = json.loads(metadata.get(UNTRAINED, "[]"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: {UNTRAINED} is not JSON ({bounds.reason(error)}); convert it again"
        ) from error
    require_texts(parts, f"{where}: {UNTRAINED}")
    return present(parts, params)


def require_texts(parts: Any, what: str) -> None:
    """CheckpointError unless it is a list of texts."""
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise CheckpointError(f"{what} must be a list of text; convert it again")


def present(parts: Iterable[str], params: Params) -> tuple[str, ...]:
    """Those of the parts that these parameters have."""
    return tuple(part for part in parts if _is_present(part, params))


def _is_present(part: str, params: Params) -> bool:
    at: Any = params
    for name in ("decoder",) if part == SINGLE_MASK else part.split("/"):
        if not isinstance(at, Mapping) or name not in at:
            return False
        at = at[name]
    return True
