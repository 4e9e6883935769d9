"""Random choices of a view: all from one generator, keyed by what the example is.

Never by when or where it is made: any number of threads and hosts gives the same views.
"""

import hashlib

import numpy as np


def generator(
    seed: int, epoch: int, name: str, purpose: int = 0, *, copy: int = 0
) -> np.random.Generator:
    """The source of randomness for one record in one epoch; each purpose has its own, and each copy
    of the record."""
    # A file's name may hold bytes that are not UTF-8.
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    key = (seed, epoch, int.from_bytes(digest, "big"), purpose)
    return np.random.default_rng((*key, copy) if copy else key)


def flips(rng: np.random.Generator, flip: str) -> bool:
    """Whether this view is mirrored."""
    return flip == "horizontal" and rng.random() < 0.5
