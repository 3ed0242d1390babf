"""Synthetic cells on disk, for `corpus.py`: any number of them, in memory of one block.

    python benchmarks/make_cells.py --cells 200000 --gzip cells.h5ad

A cell is of one of twelve types. A type has a log-normal profile over 20,000 genes (the symbols of the packaged
pancreas data), and counts are Poisson. The profile is scaled so that a cell expresses about 2,200 to 2,400 genes. Every
count comes from a hash of (seed, cell, gene), so a smaller file holds the first cells of a larger one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numba import njit, prange

from c2s.common.errors import C2SError
from c2s.common.files import atomic_file
from c2s.common.seeds import cell_keys, generator, text_keys

N_GENES = 20_000
N_TYPES = 12
N_SIZES = 8
FEWEST_GENES = 2_200
SPREAD_OF_GENES = 2.0  # of the log-normal profile
SPREAD_OF_TYPES = 0.7
MOST_COUNTS = 300.0
CELLS_AT_A_TIME = 4_096
VALUES_AT_A_TIME = 1 << 22


def main(arguments: list[str] | None = None) -> int:
    """Write the file and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("path", type=Path, help="the .h5ad file")
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--gzip", action="store_true", help="packed as anndata packs with 'gzip'")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.cells < 1:
        parser.error("--cells must be at least 1")
    try:
        if options.gzip:
            plain = options.path.with_suffix(".plain.h5ad")
            write_synthetic(plain, options.cells, options.seed)
            write_packed(plain, options.path)
            plain.unlink()
        else:
            write_synthetic(options.path, options.cells, options.seed)
    except C2SError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def write_synthetic(path: Path, n_cells: int, seed: int = 0) -> None:
    """Write `n_cells` synthetic cells, unpacked: arrays in one piece, as `AnnData.write_h5ad` leaves them.

    Raises
    ------
    C2SError
        The file cannot be written.
    """
    rates = _rates(seed)
    nothing = np.exp(-rates).astype(np.float32)
    genes = text_keys(_symbols())
    cells = cell_keys([f"cell-{i}" for i in range(n_cells)], seed)
    # The profile of a cell is drawn by its key: a row of `rates`, by type and size.
    profile = ((cells >> np.uint64(32)) % np.uint64(len(rates))).astype(np.int64)
    lengths = np.empty(n_cells, np.int64)
    _count(cells, profile, genes, nothing, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        data, indices = _start(file, _obs(profile, seed), _symbols(), indptr, packed=False)
        for start in range(0, n_cells, CELLS_AT_A_TIME):
            block = slice(start, min(start + CELLS_AT_A_TIME, n_cells))
            low, high = int(indptr[start]), int(indptr[block.stop])
            counts, columns = np.empty(high - low, np.float32), np.empty(high - low, np.int32)
            places = indptr[start : block.stop] - low
            _draw(cells[block], profile[block], genes, nothing, rates, places, counts, columns)
            data[low:high], indices[low:high] = counts, columns


def write_repeated(path: Path, adata: Any, n_cells: int) -> None:
    """Write the rows of an `AnnData` (CSR) again and again until there are `n_cells`, each with its own name."""
    matrix = adata.X
    rows = np.arange(n_cells) % matrix.shape[0]
    indptr = np.concatenate([[0], np.cumsum(np.diff(matrix.indptr)[rows])]).astype(np.int64)
    obs = adata.obs.iloc[rows].copy()
    obs.index = [f"{name}-{i}" for i, name in enumerate(obs.index)]
    obs["study"] = "repeated"
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        data, indices = _start(file, obs, list(adata.var_names), indptr, packed=False)
        for start in range(0, n_cells, matrix.shape[0]):
            stop = min(start + matrix.shape[0], n_cells)
            low, high = int(indptr[start]), int(indptr[stop])
            data[low:high], indices[low:high] = (
                matrix.data[: high - low],
                matrix.indices[: high - low],
            )


def write_packed(plain: Path, path: Path) -> None:
    """Write the cells of a file with gzip, as `AnnData.write_h5ad(compression="gzip")` does."""
    from anndata.io import read_elem

    with (
        h5py.File(plain, "r") as source,
        atomic_file(path) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        obs, var = read_elem(source["obs"]), read_elem(source["var"])
        matrix = source["X"]
        places = _start(file, obs, list(var.index), matrix["indptr"][:], packed=True)
        for name, place in zip(("data", "indices"), places, strict=True):
            step = VALUES_AT_A_TIME - VALUES_AT_A_TIME % place.chunks[0]
            for start in range(0, len(place), step):
                place[start : start + step] = matrix[name][start : start + step]


def write_first(path: Path, first: Path, n_cells: int) -> None:
    """Write the first cells of a file, packed if it is."""
    from anndata.io import read_elem

    with (
        h5py.File(path, "r") as source,
        atomic_file(first) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        obs, var = read_elem(source["obs"]).iloc[:n_cells], read_elem(source["var"])
        matrix = source["X"]
        indptr = matrix["indptr"][: len(obs) + 1]
        packed = matrix["data"].compression is not None
        for name, place in zip(
            ("data", "indices"),
            _start(file, obs, list(var.index), indptr, packed=packed),
            strict=True,
        ):
            for start in range(0, len(place), VALUES_AT_A_TIME):
                stop = min(start + VALUES_AT_A_TIME, len(place))
                place[start:stop] = matrix[name][start:stop]


def _symbols() -> list[str]:
    import c2s

    return list(c2s.datasets.pancreas().var_names[:N_GENES])


def _obs(profile: np.ndarray, seed: int) -> pd.DataFrame:
    n = len(profile)
    rng = generator(seed, "benchmark", "obs")
    donor = rng.integers(20, size=n)
    columns = {
        "cell_type": [f"type {k} of cell" for k in profile // N_SIZES],
        "tissue": [("lung", "blood", "kidney", "liver")[k % 4] for k in donor],
        "donor_id": [f"donor {k}" for k in donor],
        "organism": ["Homo sapiens"] * n,
        "assay": ["synthetic"] * n,
        "study": ["synthetic"] * n,
    }
    return pd.DataFrame(
        {name: pd.Categorical(values) for name, values in columns.items()},
        index=[f"cell-{i}" for i in range(n)],
    )


def _start(
    file: Any, obs: pd.DataFrame, genes: list[str], indptr: np.ndarray, *, packed: bool
) -> tuple[Any, Any]:
    """Write all but the values and columns of the matrix; return where these go."""
    from anndata.io import write_elem

    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    write_elem(file, "obs", obs)
    write_elem(file, "var", pd.DataFrame(index=genes))
    for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
        write_elem(file, name, {})
    matrix = file.create_group("X")
    matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    matrix.attrs["shape"] = np.array([len(obs), len(genes)])
    how: dict[str, Any] = {"compression": "gzip"} if packed else {}
    matrix.create_dataset("indptr", data=indptr, **how)
    return tuple(
        matrix.create_dataset(name, shape=(int(indptr[-1]),), dtype=dtype, **how)
        for name, dtype in (("data", np.float32), ("indices", np.int32))
    )


def _rates(seed: int) -> np.ndarray:
    """Return the expected count of each gene in a cell of each type and size. float64, (N_TYPES * N_SIZES, N_GENES)."""
    rng = generator(seed, "benchmark", "profiles")
    common = rng.normal(0, SPREAD_OF_GENES, N_GENES)
    profiles = np.exp(common + rng.normal(0, SPREAD_OF_TYPES, (N_TYPES, N_GENES)))
    sizes = FEWEST_GENES * np.linspace(1, 1.1, N_SIZES)
    rates = [_scaled(profile, size) for profile in profiles for size in sizes]
    return np.minimum(np.array(rates), MOST_COUNTS)


def _scaled(profile: np.ndarray, n_expressed: float) -> np.ndarray:
    """Scale expected counts until so many genes are expected to be above zero."""
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        too_few = -np.expm1(-profile * np.exp(middle)).sum() < n_expressed
        low, high = (middle, high) if too_few else (low, middle)
    return profile * np.exp(low)


@njit(inline="always")
def _uniform(cell: np.uint64, gene: np.uint64) -> np.float64:
    """Return a number in [0, 1), by the splitmix64 finaliser of two keys."""
    x = cell ^ gene
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return np.float64(x >> np.uint64(11)) * 2.0**-53


@njit(parallel=True, cache=True)
def _count(  # type: ignore[no-untyped-def]
    cells, profile, genes, nothing, out
) -> None:
    """Count the genes of each cell that are above zero. int64, (n_cells,)."""
    for c in prange(len(cells)):
        n = 0
        for g in range(len(genes)):
            n += _uniform(cells[c], genes[g]) >= nothing[profile[c], g]
        out[c] = n


@njit(parallel=True, cache=True)
def _draw(  # type: ignore[no-untyped-def]
    cells, profile, genes, nothing, rates, places, counts, columns
) -> None:
    """Write the counts above zero of each cell, and their genes, from its place on."""
    for c in prange(len(cells)):
        at = places[c]
        for g in range(len(genes)):
            u = _uniform(cells[c], genes[g])
            if u < nothing[profile[c], g]:
                continue
            rate, k = rates[profile[c], g], 0
            share = np.exp(-rate)
            below = share
            while (k < 1 or u >= below) and k < 3 * rate + 50:
                k += 1
                share *= rate / k
                below += share
            counts[at], columns[at] = k, g
            at += 1


if __name__ == "__main__":
    sys.exit(main())
