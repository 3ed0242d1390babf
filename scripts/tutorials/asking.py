"""The cells of `docs/tutorials/asking.ipynb`: what a model says about cells, and how far to trust it."""
# ruff: noqa: E501 - prose that a notebook wraps

CELLS = [
    (
        "md",
        """# Asking a model

A trained model can be asked for more than a label: how sure it is, what else the cell could be, where it lies among other cells, which genes
decided, and for cells that were never measured. This tutorial asks a small model all of that, on pancreas cells that it was not trained on,
and checks each answer against something. It takes about two minutes on two cores.""",
    ),
    (
        "code",
        """%matplotlib inline
import numpy as np
import pandas as pd
import scanpy as sc

import c2s
from c2s.studies.demo import demo_recipe
from c2s.studies.train import train_model

pd.options.display.precision = 3
pd.options.display.width = 160

adata = c2s.datasets.pancreas()
recipe = demo_recipe()
short = recipe.optimisation.model_copy(update={"steps": 200})
recipe = recipe.model_copy(update={"optimisation": short, "temperatures": [0.9]})
trained = train_model(adata, recipe, "pancreas", device="cpu")
model = trained.model
validation, test = (adata[trained.cells.rows(part)].copy() for part in ("val", "test"))
model""",
    ),
    (
        "md",
        """The recipe is the demo's, cut to 200 of its 1,700 steps, so the model is worse than the demo's. With your own model the line is
`model = c2s.load_model("folder")`.

## What is this cell, and how sure is the model?

Annotation scores **every** candidate label and normalises: the answer is always one of the list, with an exact probability. `top_n` keeps the
runners-up, `entropy_key` says how undecided the model was.""",
    ),
    (
        "code",
        """c2s.tl.annotate(test, model, top_n=3, entropy_key="entropy", probabilities_key="probabilities")
print(f"{(test.obs['c2s_cell_type'].astype(str) == test.obs['cell_type'].astype(str)).mean():.1%} of {test.n_obs} test cells")
test.obsm["c2s_cell_type_top"].sample(5, random_state=0)""",
    ),
    (
        "md",
        """A probability is only useful if cells that got 0.8 are right four times in five. `calibrate` measures that on **validation** cells and finds the
temperature that mends it; test cells are not touched. The model remembers it, and `model.save` writes it.""",
    ),
    (
        "code",
        """before = test.obs["c2s_confidence"].copy()
found = c2s.tl.calibrate(validation, model)
c2s.tl.annotate(test, model, entropy_key="entropy")
right = (test.obs["c2s_cell_type"].astype(str) == test.obs["cell_type"].astype(str)).to_numpy()
print({name: round(value, 3) for name, value in found.items()})
truth, named = (test.obs[key].astype(str).to_numpy() for key in ("cell_type", "c2s_cell_type"))
for name, confidence in (("before", before), ("after", test.obs["c2s_confidence"])):
    error = c2s.metrics.expected_calibration_error(truth, named, confidence.to_numpy())
    print(f"{name}: mean confidence {confidence.mean():.3f}, right {right.mean():.3f}, calibration error on test cells {error:.3f}")""",
    ),
    (
        "md",
        """Below a confidence that you choose, `min_confidence` answers "unknown" instead. What that buys is measured the same way: fewer answers, more of them
right.""",
    ),
    (
        "code",
        """rows = []
for least in (0.0, 0.5, 0.7, 0.9, 0.97):
    sure = (test.obs["c2s_confidence"] >= least).to_numpy()
    rows.append({"min_confidence": least, "answered": sure.mean(), "right among them": right[sure].mean()})
pd.DataFrame(rows)""",
    ),
    (
        "md",
        """## Which genes decided?

`explain` leaves each gene out of the sentence in turn and asks again: what the label's log-probability loses is what the gene carried. Of each type the
genes that carried most, over 40 test cells:""",
    ),
    (
        "code",
        """some = test[test.obs["cell_type"].isin(["alpha", "beta", "ductal", "acinar"])].copy()
some = some[np.random.default_rng(0).choice(some.n_obs, 40, replace=False)].copy()
explanation = c2s.tl.explain(some, model)
top = c2s.tl.top_genes(explanation, 5)
top""",
    ),
    (
        "code",
        """beta = top[top["label"] == "beta"]
c2s.pl.explanation(beta["gene"], beta["value"], label="beta").figure""",
    ),
    (
        "md",
        """INS for beta cells, GCG for alpha cells: what a biologist would name; of the types with few cells the errors are as large as the values. That proves little, since the genes that matter are also those at the front.
`deletion_test` takes the ten named genes out of each cell, and then ten others of nearly the same ranks: if the explanation is right, the
label loses more in the first case.""",
    ),
    ("code", """c2s.tl.deletion_test(some, model, explanation).summary"""),
    (
        "md",
        """## Where does the cell lie?

`embed` takes the mean of the model's last hidden states over the prompt. The result is an ordinary `obsm` for scanpy. Is it better than what costs
nothing? Ten nearest neighbours among the training cells name the test cells, in the model's space and in 20 principal components.""",
    ),
    (
        "code",
        """from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

train = adata[trained.cells.rows("train")].copy()
for cells in (train, test):
    c2s.tl.embed(cells, model)


def log_expression(cells):
    cells = cells.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    return cells.X.toarray()


components = PCA(20, random_state=0).fit(log_expression(train))
for cells in (train, test):
    cells.obsm["X_pca"] = components.transform(log_expression(cells))
for space in ("X_c2s", "X_pca"):
    knn = KNeighborsClassifier(10).fit(train.obsm[space], train.obs["cell_type"].astype(str))
    print(f"{space}: {knn.score(test.obsm[space], test.obs['cell_type'].astype(str)):.1%} of the test cells named rightly")""",
    ),
    (
        "code",
        """sc.pp.neighbors(test, use_rep="X_c2s", random_state=0)
sc.tl.umap(test, random_state=0)
sc.pl.umap(test, color=["cell_type", "c2s_confidence"], frameon=False, wspace=0.6)""",
    ),
    (
        "md",
        """`c2s embed` and `c2s annotate` do the same from file to file, for any number of cells: they read a chunk at a time, and a run that was broken off goes
on where it stopped.

## Cells that were never measured

`generate` writes cells of a type: always genes that the model knows, none twice, exactly as many as it was trained on. What is known beforehand can be
required or forbidden, and a panel of genes can be given, without losing that. A required gene that the model does not come to by itself stands last.""",
    ),
    (
        "code",
        """made = c2s.tl.generate(model, ["alpha", "beta"], n=3, require=["CHGA"], forbid=["MALAT1"], seed=0)
for kind, sentence in zip(made.obs["cell_type"], made.obs["cell_sentence"]):
    words = sentence.split()
    print(f"{kind:6s} {len(words)} genes, {len(set(words))} different, CHGA at {words.index('CHGA') + 1}: {' '.join(words[:6])} …")""",
    ),
    (
        "md",
        """A request in English is read, and the reading is shown. What this model was never trained on, such as a tissue, is not left out silently: the request goes
to the model as it is, with a warning, or is refused with `strict=True`.""",
    ),
    (
        "code",
        """from c2s.analysis.requests import parse_generation_request
from c2s.common.errors import C2SError

for text in ("generate 7 human beta cells", "Generate gene list for healthy hepatocytes"):
    request = parse_generation_request(text, model)
    print(f"{text!r}: {'not understood' if request.unknown else request}")
try:
    c2s.tl.generate(model, prompt="Generate gene list for healthy hepatocytes", strict=True)
except C2SError as error:
    print(error)""",
    ),
    (
        "md",
        """How good such cells are is another question: see [how good are these generated cells?](generated_cells.ipynb)

What to take along:

- An answer comes with a probability; calibrate it on cells that were not trained on before you trust it.
- An explanation is a claim about the model; the deletion test checks it.
- An embedding is worth what it adds to principal components. This little model's adds nothing.""",
    ),
]
