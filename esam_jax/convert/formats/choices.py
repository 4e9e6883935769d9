"""Which of several sets of weights in one file is meant: averaged (EMA) ones, or those trained."""

import re
from collections.abc import Sequence
from typing import Literal

from esam_jax.errors import CheckpointError

Weights = Literal["ema", "raw"]

# "model_ema", "state_dict_ema", "ema_model", "averaged_model", "swa", but not "schema".
_AVERAGED = re.compile(r"(^|[_.])(ema|swa|averaged|shadow)([_.]|$)", re.IGNORECASE)


def is_averaged(name: str) -> bool:
    """Whether a key or a prefix says that weights are averages over updates."""
    return _AVERAGED.search(name) is not None


def choose(names: Sequence[str], weights: Weights | None) -> tuple[str, str | None]:
    """The set to take, of the names of all sets in order of preference, and the one passed over.

    Averaged weights are taken where there are any, unless `weights` says otherwise: they are saved
    in order to be used.
    """
    averaged = [name for name in names if is_averaged(name)]
    raw = [name for name in names if not is_averaged(name)]
    taken, passed_over = (raw, averaged) if weights == "raw" else (averaged, raw)
    if not taken:
        return passed_over[0], None
    return taken[0], next(iter(passed_over), None)


def require(weights: Weights | None, taken: Sequence[str | None], where: str) -> None:
    """CheckpointError unless what was taken, by the names it lay under, is what was asked for."""
    found = "ema" if any(is_averaged(name) for name in taken if name) else "raw"
    if weights not in (None, found):
        about = {"ema": "averaged (EMA)", "raw": "raw"}
        raise CheckpointError(
            f"{where} holds {about[found]} weights alone: leave out --weights {weights}"
        )
