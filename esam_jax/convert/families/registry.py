"""Every family of checkpoints, and which of them a state dict is of."""

from esam_jax.config import ModelConfig
from esam_jax.convert.families import efficientsam, mae, mobile_sam, sam, sam_transformers
from esam_jax.convert.families.family import Family, State
from esam_jax.errors import CheckpointError, ConfigError

_ALL = (
    efficientsam.FAMILY,
    sam.FAMILY,
    mobile_sam.FAMILY,
    mae.FAMILY,
    sam_transformers.FAMILY,
)
FAMILIES = {family.name: family for family in _ALL}


def get(name: str) -> Family:
    """The family of that name; ConfigError for an unknown one."""
    if name not in FAMILIES:
        raise ConfigError(
            f"no layout of checkpoints is called {name!r}: choose one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def recognise(state: State) -> Family:
    """The family whose marks are all among the names; CheckpointError when there is none."""
    for family in FAMILIES.values():
        if all(mark in state for mark in family.marks):
            return family
    known = "; ".join(f"{f.about}: {' and '.join(f.marks)}" for f in FAMILIES.values())
    raise CheckpointError(f"this is no state dict of a known model, which would hold ({known})")


def names(family: Family, config: ModelConfig) -> set[str]:
    """Every tensor name of a model in that layout."""
    used = {name for link in family.links(config) for name in link.torch}
    return used | set(family.unused(config))


def of_release(config: ModelConfig) -> Family:
    """The layout in which a network of this kind was released; CheckpointError if there is none."""
    for family in FAMILIES.values():
        if family.released and family.refuses(config) is None:
            return family
    raise CheckpointError(
        "no PyTorch release has a model of this kind: write a model folder, which holds everything"
    )


def closest(state: State, config: ModelConfig) -> Family:
    """Of the layouts that can hold the config, the one with most of the names."""
    able = [family for family in FAMILIES.values() if family.refuses(config) is None]
    if not able:
        raise CheckpointError("no PyTorch layout has a model of this kind")

    def known(family: Family) -> int:
        return sum(name in state for link in family.links(config) for name in link.torch)

    return max(able, key=known)
