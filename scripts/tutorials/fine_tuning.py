"""The cells of `docs/tutorials/fine_tuning.ipynb`: a model is trained further on one's own cells, and names others."""
# ruff: noqa: E501 - prose that a notebook wraps

CELLS = [
    (
        "md",
        """# Fine-tune a model on your own cells

You have a `.h5ad` file with counts and labels. In this tutorial a model is trained on it and then names cells that it never saw: from
the file to annotated cells, in two or three minutes on a laptop. The file here is made of the packaged pancreas cells; put your own in its
place. The base here is a small model of random weights that first reads cells without labels (*pre-training*); with a GPU you
would begin from a published one (`base: {model: …}`) and leave that step out.""",
    ),
    (
        "code",
        """%matplotlib inline
import os
import tempfile

os.chdir(tempfile.mkdtemp())  # everything is written there

import c2s
from c2s.corpus.splits import split_cells

adata = c2s.datasets.pancreas()
part = split_cells(adata.obs["cell_type"], (0.8, 0.0, 0.2), seed=1)
mine, others = adata[part == "train"].copy(), adata[part == "test"].copy()
mine.write_h5ad("mine.h5ad")
del others.obs["cell_type"]  # kept aside, to see at the end who was right
truth = adata[part == "test"].obs["cell_type"].astype(str)
mine""",
    ),
    (
        "md",
        """## What the file holds

`c2s inspect` says whether the matrix holds counts, how genes are named, and which columns a recipe can use.""",
    ),
    ("code", """!c2s inspect mine.h5ad"""),
    (
        "md",
        """## Pre-training: sentences without labels

A recipe says what training starts from, what it reads and how long. `data.recipe` is a corpus recipe: cells are ranked anew in every
epoch, with other ties and other numbers of genes. `stage: pretrain` learns every token.""",
    ),
    (
        "code",
        """%%writefile pretrain.yaml
stage: pretrain
base: {preset: mini}            # a shape with random weights; c2s.models.presets has others
data:
  recipe: cells.yaml
optimisation:
  steps: 40
  batch_size: 4                 # packed sequences of up to `context` tokens
  optimizer: muon
  learning_rate: 0.001
evaluation: {every: 20}""",
    ),
    (
        "code",
        """%%writefile cells.yaml
sources:
  - data: mine.h5ad
    values: {organism: Homo sapiens, tissue: pancreas}
tasks: {sc_lm: {}, cond_cell: {}, cell_type: {}}
tokens: genes                   # one token a gene
single_genes: [50, 100]         # genes of a cell, from and to
quality: {min_cells: 20}        # genes of fewer cells are left out
context: 512""",
    ),
    (
        "md",
        """`--dry-run` says what would be done, and how much memory it takes, before anything is trained.""",
    ),
    ("code", """!c2s train pretrain.yaml -o pretrained --dry-run"""),
    ("code", """!c2s train pretrain.yaml -o pretrained"""),
    (
        "md",
        """## Fine-tuning: the labels

`stage: sft` learns the answers only, and every sample weighs the same. The base is the model that was just made. `best` keeps the
weights that name validation cells best.""",
    ),
    (
        "code",
        """%%writefile finetune.yaml
stage: sft
base: {model: pretrained/model}
data:
  recipe:
    sources:
      - data: mine.h5ad
        values: {organism: Homo sapiens, tissue: pancreas}
    tasks: {cell_type: {}}
    tokens: genes
    single_genes: [50, 100]
    quality: {min_cells: 20}
optimisation:
  steps: 120
  batch_size: 24
  optimizer: muon
  learning_rate: 0.001
evaluation: {every: 40, best: accuracy_cell_type}
save_every: 40""",
    ),
    ("code", """!c2s train finetune.yaml -o tuned"""),
    (
        "md",
        """A run that was stopped goes on with `--resume`, with the losses of a run that was not. What was logged is in `log.jsonl`, a line a
measurement:""",
    ),
    (
        "code",
        """import matplotlib.pyplot as plt
import pandas as pd

log = pd.read_json("tuned/log.jsonl", lines=True)
figure, axes = plt.subplots(figsize=(5, 3))
axes.plot(log["step"], log["loss"], ".-", label="training")
measured = log.dropna(subset=["eval_loss"])
axes.plot(measured["step"], measured["eval_loss"], "o-", label="validation")
axes.set(xlabel="step", ylabel="loss (nats)")
axes.legend(frameon=False);""",
    ),
    (
        "md",
        """## Cells that it never saw

Every label gets its exact probability; nothing but the labels of your file is ever answered.""",
    ),
    (
        "code",
        """model = c2s.load_model("tuned/model")
c2s.tl.annotate(others, model, organism="Homo sapiens")
print(f"{(others.obs['c2s_cell_type'].astype(str) == truth).mean():.1%} of {len(truth)} cells as their authors named them")
others.obs[["c2s_cell_type", "c2s_confidence"]].assign(authors=truth).head()""",
    ),
    (
        "md",
        """The model directory has a card, `README.md`, written from the facts of the run: what it was trained on, how it was split, what was measured.
Logistic regression on the same cells is the bar to hold a small model against; `c2s study` compares them with intervals.""",
    ),
    (
        "code",
        """import numpy as np
import scanpy as sc
from sklearn.linear_model import LogisticRegression

for cells in (mine, others):
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
line = LogisticRegression(max_iter=200).fit(mine.X, mine.obs["cell_type"])
print(f"logistic regression: {np.mean(line.predict(others.X) == truth):.1%}")""",
    ),
]
