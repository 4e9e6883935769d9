"""Several real processes on this machine, joined over gloo, as launch/local.sh starts them."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor


def start(command, count, devices=1, environment=()):
    """`count` running processes of `python *command`, each with that many pretend devices."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(number),
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            }
            | dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def keeping(programs):
    """Variables for processes that keep what they compile in this folder, for each other."""
    return {
        "ESAM_COMPILE_CACHE": str(programs),
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def finish(processes, codes=None, timeout=300):
    """(stdout, stderr) of each; fails unless they end with `codes` (default: all 0)."""
    # All at once: one whose pipe is full waits for a reader, and the others for it.
    readers = ThreadPoolExecutor(len(processes))
    try:
        outputs = list(readers.map(lambda each: each.communicate(timeout=timeout), processes))
    finally:
        for each in processes:
            each.kill()
        readers.shutdown()
    for each, code, (_, errors) in zip(processes, codes or [0] * len(processes), outputs):
        assert each.returncode == code, errors
    return outputs


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
