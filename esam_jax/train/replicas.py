"""Copies of a piece on several devices, compared: a bit that flipped in one shows in its checksum.

Parameters that are replicated on every device, or sharded over one mesh axis and repeated along
another, must have the same bits wherever they lie: equal arithmetic made them. A faulty chip or
memory breaks that without a word, and the gradient mean then spreads it.
"""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from esam_jax import sharding
from esam_jax.errors import TrainingError
from esam_jax.train.checkpoint import checksums


class Replicas:
    """Compares all copies of the leaves of one tree; compiled once, at the first comparison."""

    def __init__(self, tree: Any, mesh: Mesh, trusted: int) -> None:
        """`tree` may be abstract; at `trusted` updates its copies are known to be equal."""
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        self._names = [sharding.name(path) for path, _ in leaves]
        self._devices = list(mesh.devices.flat)
        self._pieces_LD = [_pieces(leaf, self._devices) for _, leaf in leaves]
        self._trusted = trusted
        sums = jax.shard_map(
            lambda tree: jnp.stack([checksums.array_sum(leaf) for leaf in jax.tree.leaves(tree)])[
                None
            ],
            mesh=mesh,
            in_specs=(jax.tree.map(lambda leaf: leaf.sharding.spec, tree),),
            out_specs=sharding.P(sharding.AXES),  # a row for each device, in the mesh's order
        )
        self._sums = jax.jit(sums, out_shardings=sharding.replicated(mesh))

    def compare(self, step: int, tree: Any) -> None:
        """TrainingError names leaf, device and host of each copy that differs after `step` updates.

        Every process must call it; each waits for the device and finds the same.
        """
        sums_DL = np.asarray(jax.device_get(self._sums(tree)))
        odd = [
            fault
            for name, pieces_D, sums_D in zip(self._names, self._pieces_LD, sums_DL.T, strict=True)
            for fault in self._odd(name, pieces_D, sums_D)
        ]
        if odd:
            more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
            said = f"copies that must be equal differ: {'; '.join(odd[:5])}{more}"
            if step == self._trusted:
                raise TrainingError(
                    f"before the first update, {said}. That host has read other weights: give all "
                    "hosts the same files"
                )
            raise TrainingError(
                f"after step {step}, {said}. A device or its memory is faulty: run without that "
                f"host. Checkpoints up to step {self._trusted} are trusted: move later ones away, "
                "then run the same command"
            )
        self._trusted = step

    def _odd(self, name: str, pieces_D: list[str], sums_D: np.ndarray) -> list[str]:
        """In words, every copy of a leaf's pieces that is not as most copies of it."""
        holders = collections.defaultdict(list)
        for row, piece in enumerate(pieces_D):
            holders[piece].append(row)
        found = []
        for rows in holders.values():
            (common, votes), *others = collections.Counter(sums_D[rows].tolist()).most_common()
            if not others:
                continue
            if votes == others[0][1]:
                found.append(f"{name} on {self._where(rows)}, without a majority")
                continue
            wrong = [row for row in rows if sums_D[row] != common]
            found.append(f"{name} on {self._where(wrong)} is unlike {votes} others")
        return found

    def _where(self, rows: list[int]) -> str:
        devices = [self._devices[row] for row in rows]
        return ", ".join(f"device {d.id} of host {d.process_index}" for d in devices)


def _pieces(leaf: Any, devices: list[jax.Device]) -> list[str]:
    """Which piece of a leaf each device holds."""
    held = leaf.sharding.devices_indices_map(leaf.shape)
    return [str(held[device]) for device in devices]
