"""The cells of `docs/tutorials/generated_cells.ipynb`: how good are these generated cells?"""
# ruff: noqa: E501 - prose that a notebook wraps

CELLS = [
    (
        "md",
        """# How good are these generated cells?

A generator of cells can look right and be worthless: it may copy training cells, or get each gene right and no pair of genes. This
tutorial puts four generators of known quality and a small language model beside held-out real pancreas cells, and shows which figure
catches what. It takes about three minutes on two cores.""",
    ),
    (
        "code",
        """%matplotlib inline
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import c2s
from c2s.evaluate import compare_evaluations, evaluate

folder = Path(tempfile.mkdtemp())
pd.options.display.precision = 3
pd.options.display.width = 160""",
    ),
    (
        "md",
        """## A small model

Split first. The packaged recipe of the demo, cut to 300 of its 1,700 steps, is trained on the training cells alone; then the model writes one cell for
each held-out cell, of the same type.""",
    ),
    (
        "code",
        """from c2s.studies.demo import demo_recipe
from c2s.studies.train import train_model

adata = c2s.datasets.pancreas()
recipe = demo_recipe()
short = recipe.optimisation.model_copy(update={"steps": 300})
recipe = recipe.model_copy(update={"optimisation": short, "temperatures": [0.9]})
trained = train_model(adata, recipe, "pancreas", device="cpu")
train, real = (adata[trained.cells.rows(part)].copy() for part in ("train", "test"))
made = c2s.tl.generate(trained.model, list(real.obs["cell_type"]), seed=0)
made.shape, real.shape""",
    ),
    (
        "md",
        """## One evaluation

`evaluate` takes held-out cells, generated cells, the labels within which they are compared, and the training cells. Every cell goes the
same way: a sentence of 100 genes, expression again, a place among 20 principal components of the training cells.""",
    ),
    (
        "code",
        """metrics = ["scfid", "energy_distance", "mmd2", "c2st", "overlap"]
found = evaluate(real, made, by=["cell_type"], train=train, metrics=metrics, n_splits=10)
found.summary("together")""",
    ),
    (
        "md",
        """- **ceiling** are other real cells, at the same number. Nothing can be expected to do much better.
- **independent** draws every gene on its own from training cells of the type: right margins, no correlations. A model that does no better has learned
  the margins only.
- **other_ties** are the same real cells with ties drawn anew: their overlap says that 100 % cannot be had.
- **round_trip** is what writing real cells as sentences costs, against **measured**.

After so short a training the model is worse than independent genes by every figure, and the last column says so. The interval is part of the answer, and so is
what it is about: these cells have one donor.""",
    ),
    (
        "code",
        """print(found.facts["intervals"])
c2s.pl.evaluation_bars(found, scope="together")""",
    ),
    ("code", """c2s.pl.evaluation_conditions(found, "energy_distance")"""),
    (
        "md",
        """What had too few cells is left out by name, with the reason. scFID wants four cells a dimension on each side.""",
    ),
    (
        "code",
        """from c2s.evaluate.wording import left_out_summary

print(*left_out_summary(found), sep="\\n")""",
    ),
    (
        "md",
        """## Generators of known quality

A memoriser hands out training cells. *Independent* genes and a *Gaussian copula* (the same margins, with the correlations of each type) need no
language. They are evaluated in the same space, which is what `encoder=found.encoder` says.""",
    ),
    (
        "code",
        """from c2s.baselines import GaussianCopula, IndependentResampling, copy_training
from c2s.cells.preprocess import log10_normalized

labels = train.obs["cell_type"].to_numpy(dtype=str)
types = made.obs["cell_type"].to_numpy(dtype=str)
# Over the genes of the model, so that all generators choose among the same.
genes = trained.cells.columns
matrix = log10_normalized(train.X.astype(np.float32))[:, genes]


def as_cells(expression):
    obs = pd.DataFrame({"cell_type": types}, index=[f"cell{i}" for i in range(len(types))])
    return ad.AnnData(expression, obs=obs, var=train.var.iloc[genes])


generators = {
    "copies": copy_training(matrix, labels, types, seed=0),
    "independent genes": IndependentResampling().fit(matrix, labels).sample(types, seed=0),
    "copula": GaussianCopula().fit(matrix, labels).sample(types, seed=0),
}
results = {"language model": found}
for name, expression in generators.items():
    results[name] = evaluate(
        real, as_cells(expression), by=["cell_type"], train=train, encoder=found.encoder, top_k=100,
        metrics=metrics, n_splits=10,
    )
table = compare_evaluations(results, scope="together")
table.pivot(index="metric", columns="model", values="value")[[*results, "ceiling"]].round(3)""",
    ),
    (
        "md",
        """The copula is near the ceiling: on a thousand cells of one donor a Gaussian is hard to beat, and the full training of `c2s demo` does not beat it
either (`benchmarks/RESULTS.md`). A model that only beats independent genes has still to show what it is for.

By every distance the copies are excellent too: of course, they are real cells. What gives them away is the distance to the nearest
*training* cell, beside that of held-out real cells.""",
    ),
    (
        "code",
        """pd.DataFrame({name: each.facts["memorisation"] for name, each in results.items()}).T""",
    ),
    ("code", """c2s.pl.nearest_training(results["copies"])"""),
    (
        "md",
        """A ratio far below 1, and more than a few per cent of cells below the 5th percentile of real cells, are copies.

## What is said, and what is not

Figures of another encoder mean something else, and are not put into one table:""",
    ),
    (
        "code",
        """from c2s.common.errors import InputError

other = evaluate(real, made, by=["cell_type"], train=train, encoder="pca:5", n_splits=2, metrics=["energy_distance"])
try:
    compare_evaluations({"one": found, "other": other})
except InputError as error:
    print(error)""",
    ),
    (
        "md",
        """The command does the same with files and writes a report:

```bash
c2s evaluate real.h5ad generated.h5ad --by cell_type --train train.h5ad -o evaluation
```""",
    ),
    (
        "code",
        """real.write_h5ad(folder / "real.h5ad")
made.write_h5ad(folder / "made.h5ad")
train.write_h5ad(folder / "train.h5ad")
!c2s evaluate {folder}/real.h5ad {folder}/made.h5ad --by cell_type --train {folder}/train.h5ad --splits 3 --metrics energy_distance,overlap -o {folder}/evaluation 2>/dev/null | head -20
sorted(path.name for path in (folder / "evaluation").iterdir())""",
    ),
]
