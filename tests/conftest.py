"""Test set-up: CPU, eight pretend devices, few threads, shape checks at run time."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of the time of these tests goes into compiling tiny programs, few of which run for long.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["ESAM_COMPILE_CACHE"] = "off"  # of the user who runs the tests

import hypothesis
from jaxtyping import install_import_hook

install_import_hook("esam_jax", "beartype.beartype")

hypothesis.settings.register_profile("esam", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("esam")

pytest_plugins = ("helpers.compiled_once",)
