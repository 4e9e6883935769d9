"""Decisions that only one process may take, made known to all of them."""

import json
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from esam_jax import errors

Value = TypeVar("Value")

_BLOCK = 1024  # bytes; texts of like length share one compiled program


def decide(make: Callable[[], Value]) -> Value:
    """The result of `make` on process 0, a JSON value, on every process; or its error.

    All processes must call it: two hosts may see different states of the same folder.
    """
    if jax.process_count() == 1:
        return make()
    outcome, fault = {}, None
    if jax.process_index() == 0:
        try:
            outcome = {"value": make()}
        except Exception as error:
            outcome, fault = {"error": type(error).__name__, "says": str(error)}, error
    outcome = json.loads(_of_first(json.dumps(outcome)))
    if "value" in outcome:
        return outcome["value"]
    # A defect there is one here: as an error of the user's, launchers would not start again.
    kind = getattr(errors, outcome["error"], RuntimeError)
    raise fault or kind(f"{outcome['says']} (on process 0)")


def _of_first(text: str) -> str:
    data = np.frombuffer(text.encode(), np.uint8)
    with jax.transfer_guard("allow"):
        size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
        padded = np.zeros(-(-size // _BLOCK) * _BLOCK, np.uint8)
        if jax.process_index() == 0:
            padded[:size] = data
        received = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return received[:size].tobytes().decode()
