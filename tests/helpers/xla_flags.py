"""The flags of XLA that every process of the tests runs with."""

import importlib.metadata


def on_cpu(devices: int) -> str:
    """That many pretend devices, and programs that compile fast rather than run fast.

    XLA's fusion emitters double the time that the gradient of a small network takes to compile.
    Newer versions have nothing else and do not start with the flag.
    """
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
