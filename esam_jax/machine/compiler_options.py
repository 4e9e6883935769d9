"""Options for XLA's compilers, all in one place.

They belong to a program, and are no flags of the process (XLA_FLAGS, LIBTPU_INIT_ARGS): whoever
starts a run gets the same program, `esam plan` compiles it with the same options, and one that a
compiler does not know is an error of that program, where an unknown flag ends the process.
"""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from esam_jax.errors import ConfigError

Options = dict[str, Any]

VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
NVLS = "NCCL_NVLS_ENABLE"
_DETERMINISTIC = "xla_gpu_deterministic_ops"
_GPU = "gpu"  # NVIDIA or AMD

# Compiling these at full effort on a CPU takes longer than anything else before the first update:
# 21 s against 6 s for the first parameters of the nano model.
_ONCE_ON_CPU: Options = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def of_update(
    platform: str, *, deterministic: bool, environment: Mapping[str, str] = os.environ
) -> Options:
    """For the training update on a platform, as `jax.Device` names it.

    With `deterministic`, the same numbers give the same bits in every run of the same program on
    the same kind of GPU: scatters, convolutions and the backward pass of cuDNN's attention take
    kernels without atomic sums, and no kernel is chosen by timing, which another start could find
    otherwise. Programs of CPUs and TPUs are so without options. Else the defaults of the compilers
    are those to take: docs/launch.md. ConfigError where a flag of the user says the opposite.
    """
    if not deterministic or platform != _GPU:
        return {}
    value = given(environment).get(_DETERMINISTIC, "true")
    if value.lower() not in ("true", "1"):
        raise ConfigError(
            f"--{_DETERMINISTIC} is {value} in XLA_FLAGS, but compute.deterministic needs it: "
            "leave one of them out"
        )
    return {_DETERMINISTIC: True}


def once(platform: str) -> Options | None:
    """For a program that runs a single time."""
    return _ONCE_ON_CPU if platform == "cpu" else None


def given(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The flags that the user sets: name and value, which is "true" for a name alone."""
    words = " ".join(environment.get(name, "") for name in VARIABLES).split()
    pairs = (word.lstrip("-").partition("=") for word in words)
    return {name: value if equals else "true" for name, equals, value in pairs}


def sum_in_one_order(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keeps NCCL from adding up in NVLink's switches, whose order is not fixed.

    NCCL reads it before the first sum over devices. ConfigError where the user wants the opposite.
    """
    if environment.setdefault(NVLS, "0") != "0":
        raise ConfigError(
            f"{NVLS} is {environment[NVLS]}, but compute.deterministic needs sums in a fixed "
            "order: unset it, or leave --compute.deterministic out"
        )
