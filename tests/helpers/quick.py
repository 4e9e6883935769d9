"""Programs that compile fast rather than run fast, for what takes longer to compile than to run."""

import functools
import importlib.metadata
from typing import Any

import jax
import jax.numpy as jnp
import pytest

OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # They double the time that a small gradient takes to compile; newer versions have nothing else.
    OPTIONS["xla_cpu_use_fusion_emitters"] = False

jit = functools.partial(jax.jit, compiler_options=OPTIONS)


@pytest.fixture
def quick_programs(monkeypatch):
    """What a run compiles from here on, for tests with a tolerance.

    Where a program's last bits matter it must be the user's: vectorised loops of these may round by
    where an array happens to lie in memory.
    """
    compiled = jax.jit

    def quickly(*arguments: Any, compiler_options: Any = None, **options: Any) -> Any:
        if not isinstance(jnp.zeros(()), jax.core.Tracer):  # one inside of another takes none
            options["compiler_options"] = {**OPTIONS, **(compiler_options or {})}
        return compiled(*arguments, **options)

    monkeypatch.setattr(jax, "jit", quickly)
