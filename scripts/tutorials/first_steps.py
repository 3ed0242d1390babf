"""The cells of `docs/tutorials/first_steps.ipynb`: from an h5ad to sentences and a small model."""
# ruff: noqa: E501 - prose that a notebook wraps

CELLS = [
    (
        "md",
        """# From an h5ad to sentences and back, annotation and generation

This tutorial takes real human pancreas cells from a file to *cell sentences* (gene names in descending order of
expression), back to expression, and then trains a small model that annotates and generates cells. It runs in about
two minutes on two cores. `c2s demo` does the same with a longer training and measures everything.""",
    ),
    (
        "code",
        """%matplotlib inline
import tempfile
from pathlib import Path

import numpy as np

import c2s

folder = Path(tempfile.mkdtemp())
c2s.datasets.pancreas().write_h5ad(folder / "pancreas.h5ad", compression="gzip")""",
    ),
    (
        "md",
        """## What is in the file

`c2s.inspect` (or `c2s inspect FILE`) looks before anything is done, and says what would go wrong and how to mend it.""",
    ),
    (
        "code",
        """adata = c2s.read(folder / "pancreas.h5ad")
found = c2s.inspect(folder / "pancreas.h5ad")
for name, value in found.rows():
    print(f"{name:15} {value}")
for problem in found.problems:
    print("!", problem.text, "→", problem.mend)""",
    ),
    (
        "md",
        """## Cells as sentences

Counts are ranked as they are: scaling a cell or taking logarithms does not change the order. Many genes have the same
count; their order is drawn from the seed, the cell's name and the gene, never from the order of the cells.""",
    ),
    (
        "code",
        """cells = c2s.pp.cell_sentences(adata, top_k=100)
beta = int(np.flatnonzero(adata.obs["cell_type"] == "beta")[0])
print(cells)
print(cells.words(beta)[:12])

again = c2s.pp.cell_sentences(adata, top_k=100, seed=1)
shared = np.mean([len(set(cells.to_columns(i)) & set(again.to_columns(i))) / 100 for i in range(len(cells))])
print(f"two draws of ties share {shared:.1%} of the top 100 genes")""",
    ),
    (
        "md",
        """`to_text()` is an Arrow array, ready for Parquet, `datasets` or DuckDB. The words lead back to the columns of the
matrix, one to one.""",
    ),
    (
        "code",
        """text = cells.to_text()
print(text[beta].as_py()[:70], "…")
columns = [cells.vocabulary.column(word) for word in text[beta].as_py().split()]
assert columns == cells.to_columns(beta).tolist()
assert adata.var_names[columns[0]] == cells.vocabulary.name(cells.words(beta)[0])""",
    ),
    (
        "md",
        """## From sentences back to expression

One straight line per data set leads from the logarithm of the rank to expression (SPEC §3). It is fitted on some cells
and measured on others.""",
    ),
    (
        "code",
        """inverse = c2s.pp.fit_inverse(adata)
print(f"expression = {inverse.intercept:.3f} {inverse.slope:+.3f} · log10(1 + rank)")
print(f"on held-out cells: R² {inverse.r2:.3f}, Pearson {inverse.pearson:.3f}, Spearman {inverse.spearman:.3f}")

back = inverse.expression(text)
print(back.shape, back.dtype, f"{back.nnz / back.shape[0]:.0f} genes a cell")""",
    ),
    (
        "code",
        """ranked = c2s.pp.cell_sentences(adata[beta].copy(), top_k=None)
measured = np.log10(1 + 1e4 * ranked.values / ranked.values.sum())
c2s.pl.rank_expression(
    np.log10(1 + np.arange(len(measured))), measured, slope=inverse.slope, intercept=inverse.intercept
);""",
    ),
    (
        "md",
        """## A small model

The packaged recipe of the demo, cut to 300 of its 1,700 steps. The split is drawn before anything else: the model's genes,
the line above and the training examples come from training cells only.""",
    ),
    (
        "code",
        """from c2s.studies.demo import demo_recipe
from c2s.studies.train import train_model

recipe = demo_recipe()
short = recipe.optimisation.model_copy(update={"steps": 300})
recipe = recipe.model_copy(update={"optimisation": short, "temperatures": [0.9]})
trained = train_model(adata, recipe, "pancreas", device="cpu")
model = trained.model
model.save(folder / "model")
print(model)""",
    ),
    ("code", """c2s.pl.loss_curves(trained.log.losses).figure"""),
    (
        "md",
        """## Annotation

Each label's probability is exact: the model's probability of writing it behind the cell, among the labels given.""",
    ),
    (
        "code",
        """model = c2s.load_model(folder / "model")
test = adata[trained.cells.rows("test")].copy()
c2s.tl.annotate(test, model)
right = test.obs["c2s_cell_type"].astype(str) == test.obs["cell_type"].astype(str)
print(f"{right.mean():.1%} of {test.n_obs} held-out cells; mean probability {test.obs['c2s_confidence'].mean():.2f}")
test.obs[["cell_type", "c2s_cell_type", "c2s_confidence"]].head()""",
    ),
    (
        "md",
        """## Embedding

The mean of the last hidden states over the prompt goes to `obsm["X_c2s"]`, where scanpy finds it.""",
    ),
    (
        "code",
        """c2s.tl.embed(test, model)
test.obsm["X_c2s"].shape""",
    ),
    (
        "md",
        """## Generation

The model writes genes of its vocabulary only, none twice, exactly as many as asked for.""",
    ),
    (
        "code",
        """made = c2s.tl.generate(model, ["beta", "alpha"], n=20, seed=7)
for name in ("beta", "alpha"):
    sentence = made.obs["cell_sentence"][made.obs["cell_type"] == name].iloc[0]
    print(f"{name:6} {' '.join(sentence.split()[:10])} …")

lengths = {len(s.split()) for s in made.obs["cell_sentence"]}
assert lengths == {recipe.top_k} and all(len(set(s.split())) == recipe.top_k for s in made.obs["cell_sentence"])
made""",
    ),
    (
        "md",
        """How good are they? A first look: which type does the model itself see in the cells that it wrote? `c2s demo` measures
more than that: distances to held-out cells beside a baseline and a ceiling, and whether training cells were copied.""",
    ),
    (
        "code",
        """c2s.tl.annotate(made, model)
made.obs.groupby(["cell_type", "c2s_cell_type"], observed=True).size()""",
    ),
]
