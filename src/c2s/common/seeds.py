"""Randomness from one seed and from what a draw belongs to, never from the order of work.

Two forms: `generator(seed, *keys)` gives a NumPy generator for a named purpose, and the counter-based
64-bit hashes give one value per (seed, cell, gene), the same in any order, chunk or thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd


def generator(seed: int, *keys: str | int) -> np.random.Generator:
    """Return a NumPy generator that depends on `seed` and on `keys`, and on nothing else."""
    # NumPy's scalars print differently from equal Python values, so keys are made plain first.
    plain = (str(k) if isinstance(k, str) else int(k) for k in keys)
    digest = hashlib.blake2b(repr((int(seed), *plain)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def mix64(x: np.ndarray) -> np.ndarray:
    """Return the splitmix64 finaliser of unsigned 64-bit integers: a bijection that scatters them.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
    """
    x = np.asarray(x, dtype=np.uint64).copy()
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def text_keys(words: Sequence[str] | np.ndarray | pd.Index) -> np.ndarray:
    """Return one unsigned 64-bit hash per string, equal for equal strings on every machine."""
    return pd.util.hash_array(np.asarray(words, dtype=object), categorize=False)


def cell_keys(cell_ids: Sequence[str] | np.ndarray | pd.Index, seed: int) -> np.ndarray:
    """Return one unsigned 64-bit key per cell, from its id and the seed."""
    salt = np.uint64(
        int.from_bytes(hashlib.blake2b(str(int(seed)).encode(), digest_size=8).digest(), "little")
    )
    return mix64(text_keys(cell_ids) ^ salt)
