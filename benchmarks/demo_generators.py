"""The cells of `c2s demo` beside a Gaussian copula and independent genes, in one space, with intervals.

    python benchmarks/demo_generators.py demo                       # folders that c2s demo left, one a seed
    python benchmarks/demo_generators.py seeds/seed0 seeds/seed1 … -o evaluations

For each folder: the model's generated cells, as many of a Gaussian copula and of independent genes fitted on the same
training cells over the model's genes, all against the same halves of the same held-out cells.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.baselines import GaussianCopula, IndependentResampling
from c2s.cells.preprocess import log10_normalized
from c2s.evaluate import Evaluation, compare_evaluations, evaluate


def evaluations(folder: Path, splits: int) -> dict[str, Evaluation]:
    cells = ad.read_h5ad(folder / "annotated.h5ad")
    made = ad.read_h5ad(folder / "generated.h5ad")
    made = made[made.obs["matched"].to_numpy()].copy()
    train, real = (
        cells[(cells.obs["split"] == part).to_numpy()].copy() for part in ("train", "test")
    )
    top_k = len(made.obs["cell_sentence"].iloc[0].split())
    settings = {"by": ["cell_type"], "train": train, "top_k": top_k, "n_splits": splits}
    found = {"model": evaluate(real, made, **settings)}
    # Over the genes of the model, so that all choose among the same.
    genes = cells.var_names.str.upper().get_indexer(made.var_names)
    counts = sp.csr_matrix(train.X, dtype=np.float32)[:, genes]
    matrix = log10_normalized(counts)
    labels = train.obs["cell_type"].to_numpy(dtype=str)
    wanted = made.obs["cell_type"].to_numpy(dtype=str)
    for name, baseline in (("copula", GaussianCopula()), ("independent", IndependentResampling())):
        cells_made = ad.AnnData(
            baseline.fit(matrix, labels).sample(wanted, seed=0),
            obs=made.obs[["cell_type"]].copy(),
            var=made.var.copy(),
        )
        found[name] = evaluate(real, cells_made, encoder=found["model"].encoder, **settings)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("-o", "--out", type=Path, help="CSV file for all figures")
    options = parser.parse_args()
    parts = []
    for folder in options.folders:
        found = evaluations(folder, options.splits)
        for scope in ("mean", "together"):
            table = compare_evaluations(found, scope)
            parts.append(table.assign(scope=scope, folder=folder.name))
        ratios = {k: round(v.facts["memorisation"]["median_ratio"], 3) for k, v in found.items()}
        print(folder.name, "nearest training cell against real:", ratios, flush=True)
    table = pd.concat(parts)
    if options.out:
        table.to_csv(options.out, index=False)
    for scope, rows in table.groupby("scope"):
        print(f"\n{scope}: median over {len(options.folders)} folders (lowest to highest)")
        for metric, of in rows.groupby("metric", sort=False):
            texts = []
            for name in ("model", "copula", "independent", "ceiling"):
                values = of.loc[of["model"] == name, "value"]
                texts.append(
                    f"{name} {values.median():.4g} ({values.min():.4g} to {values.max():.4g})"
                )
            print(f"  {metric}: " + "; ".join(texts))


if __name__ == "__main__":
    main()
