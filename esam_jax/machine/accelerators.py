"""What accelerators can do at most, by the vendors' data sheets: memory, rate, bandwidth."""

import dataclasses

import jax

from esam_jax.errors import ConfigError, one_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One device as JAX counts them; rates are peaks, which no program reaches."""

    name: str
    kinds: tuple[str, ...]  # how `device_kind` begins or what it holds, lower case
    memory_bytes: int
    flops: float  # bfloat16 matrix products a second, dense, float32 sums
    bandwidth: float  # bytes a second of device memory
    float32: float | None = None  # float32 operations a second outside the matrix units
    exponentials: float | None = None  # a second: 16 a cycle on each multiprocessor of a GPU
    link: float | None = None  # bytes a second to the other devices of a host, each way
    network: float | None = None  # bytes a second and device to other hosts, as usually built


_GIB = 2**30

# NVIDIA's data sheets (SXM parts, if nothing is said); cloud.google.com/tpu/docs for the chips.
ACCELERATORS = (
    Accelerator(
        name="a100-40",
        kinds=("a100-sxm4-40gb", "a100-pcie-40gb"),
        memory_bytes=40 * _GIB,
        flops=312e12,
        bandwidth=1.555e12,
        float32=19.5e12,
        exponentials=108 * 16 * 1.41e9,
        link=300e9,
        network=25e9,
    ),
    Accelerator(
        name="a100",
        kinds=("a100",),
        memory_bytes=80 * _GIB,
        flops=312e12,
        bandwidth=2.039e12,
        float32=19.5e12,
        exponentials=108 * 16 * 1.41e9,
        link=300e9,
        network=25e9,
    ),
    Accelerator(
        name="h100-pcie",
        kinds=("h100 pcie",),
        memory_bytes=80 * _GIB,
        flops=756e12,
        bandwidth=2.0e12,
        float32=51e12,
        exponentials=114 * 16 * 1.755e9,
        link=64e9,
        network=50e9,
    ),
    Accelerator(
        name="h100-nvl",
        kinds=("h100 nvl",),
        memory_bytes=94 * 10**9,
        flops=835e12,
        bandwidth=3.9e12,
        float32=60e12,
        exponentials=132 * 16 * 1.785e9,
        link=300e9,
        network=50e9,
    ),
    Accelerator(
        name="h100",
        kinds=("h100",),
        memory_bytes=80 * _GIB,
        flops=989e12,
        bandwidth=3.352e12,
        float32=67e12,
        exponentials=132 * 16 * 1.83e9,
        link=450e9,
        network=50e9,
    ),
    Accelerator(
        name="h200",
        kinds=("h200",),
        memory_bytes=141 * 10**9,
        flops=989e12,
        bandwidth=4.8e12,
        float32=67e12,
        exponentials=132 * 16 * 1.83e9,
        link=450e9,
        network=50e9,
    ),
    # Two cores a chip, which JAX shows as one device (megacore).
    Accelerator(
        name="v4", kinds=("tpu v4",), memory_bytes=32 * _GIB, flops=275e12, bandwidth=1.228e12
    ),
    Accelerator(
        name="v5e",
        kinds=("tpu v5 lite", "tpu v5e"),
        memory_bytes=16 * _GIB,
        flops=197e12,
        bandwidth=0.82e12,
    ),
    Accelerator(
        name="v5p",
        kinds=("tpu v5p", "tpu v5"),
        memory_bytes=95 * _GIB,
        flops=459e12,
        bandwidth=2.765e12,
    ),
    Accelerator(
        name="v6e",
        kinds=("tpu v6 lite", "tpu v6e"),
        memory_bytes=32 * _GIB,
        flops=918e12,
        bandwidth=1.64e12,
    ),
)


def of(device: jax.Device) -> Accelerator | None:
    """The data sheet of a device, or None: of a CPU, or a part that is not listed."""
    kind = device.device_kind.lower()
    found = [each for each in ACCELERATORS if any(sign in kind for sign in each.kinds)]
    return found[0] if found else None


def require_some() -> None:
    """ConfigError unless JAX has a device here, of a kind that JAX_PLATFORMS allows."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as fault:  # the latter, without a word, for "cuda"
        wanted = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        why = f" ({one_line(fault)})" if str(fault) else ""
        named = f"JAX_PLATFORMS is {wanted!r}, but JAX" if wanted else "JAX"
        raise ConfigError(
            f"{named} finds no such device here{why}: unset JAX_PLATFORMS or set it to cpu; for a "
            'GPU install "jax[cuda13]" and check the driver with nvidia-smi, for a TPU install '
            '"jax[tpu]"'
        ) from fault
