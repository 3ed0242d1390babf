"""The cells of `docs/tutorials/alignment.ipynb`: a model that writes cells is aligned with rewards, and looked at for tricks."""
# ruff: noqa: E501 - prose that a notebook wraps

CELLS = [
    (
        "md",
        """# Align a model with a biological reward

A model that was fine-tuned writes cells as its training samples were: token by token. What is wanted of them is something else: that cells
of a type, together, lie as real ones do. Reinforcement learning (*GRPO*) rewards just that: of each prompt a group of answers is
drawn, each is rewarded, and what was better than the rest of its group becomes more probable.

Here a small model learns to write pancreas cells, is aligned for some steps, and is then looked at for what a reward can be tricked
with. It takes a few minutes on a laptop; the model is far from good, and the steps are few.""",
    ),
    (
        "code",
        """%matplotlib inline
import json
import os
import tempfile

os.chdir(tempfile.mkdtemp())  # everything is written there

import c2s""",
    ),
    (
        "md",
        """## A model to begin with

Alignment begins with a model that knows its task. Both recipes read the same cells, with the same split.""",
    ),
    (
        "code",
        """%%writefile cells.yaml
sources: [{data: pancreas}]
tasks: {cond_cell: {}, cell_type: {}}
tokens: genes                   # one token a gene
single_genes: [40, 40]          # genes of a cell
sentence_genes: 40
quality: {min_cells: 40}        # genes of fewer cells are left out
split: {fractions: [0.7, 0.15, 0.15]}
context: 256""",
    ),
    (
        "code",
        """%%writefile finetune.yaml
stage: sft
base: {preset: mini}            # a shape with random weights
data: {recipe: cells.yaml}
optimisation:
  steps: 150
  batch_size: 32
  optimizer: muon
  learning_rate: 0.002
evaluation: {every: 150}""",
    ),
    ("code", """!c2s train finetune.yaml -o tuned"""),
    (
        "md",
        """## The reward

`energy_distance` compares the group with real training cells of the type that was asked for, in 20 principal components; each cell gets its
own share of it, by leaving it out. Answers are kept to what the task allows (genes that the model knows, none twice, 40 of them), and
what is learned is the distribution under that constraint.

`beta` holds the model near the one that it began as. `c2s train --dry-run` says what would be done.""",
    ),
    (
        "code",
        """%%writefile align.yaml
stage: grpo
base: {model: tuned/model}
data: {recipe: cells.yaml}
policy:
  task: cond_cell               # cells of a type
  group: 16                     # answers to a prompt
  beta: 0.005
rewards: [energy_distance]
optimisation:
  steps: 24
  batch_size: 4                 # prompts of a step
  learning_rate: 0.0003
  schedule: constant
evaluation: {every: 8, cells: 160, labels: 100}
save_every: 12""",
    ),
    ("code", """!c2s train align.yaml -o aligned --dry-run"""),
    ("code", """!c2s train align.yaml -o aligned"""),
    (
        "md",
        """## What became of it

Every `evaluation.every` steps cells are generated for the types of *validation* cells and compared with those, and validation cells
are annotated, which nothing rewards. `run.json` has the first and the last measurement.""",
    ),
    (
        "code",
        """import pandas as pd

run = json.load(open("aligned/run.json"))
pd.DataFrame({"before": run["before"], "after": run["after"]}).round(3)""",
    ),
    (
        "md",
        """A reward is not what is wanted, only what can be computed. So the run looks for signs that it is gamed: cells that become alike
(`diversity`, a share of that of real cells), cells that are copied (`nearest_overlap` beside `nearest_overlap_real`), distances that
are not rewarded getting worse, labels that are forgotten, words that would not be allowed were there no constraint (`allowed`). None of these lists is complete: look at the curves too.""",
    ),
    ("code", """run["signs"]"""),
    (
        "code",
        """import matplotlib.pyplot as plt

log = pd.read_json("aligned/log.jsonl", lines=True)
measured = log.dropna(subset=["eval_energy_distance"])
shown = {"eval_energy_distance": "energy distance", "eval_scfid": "scFID (not rewarded)", "eval_diversity": "diversity (not rewarded)"}
figure, axes = plt.subplots(1, 3, figsize=(10, 3))
for axis, (name, title) in zip(axes, shown.items(), strict=True):
    axis.plot(measured["step"], measured[name], marker="o")
    axis.set(xlabel="step", title=title)
figure.tight_layout()""",
    ),
    (
        "md",
        """`aligned/report.html` shows all of it in one page. The model is a model directory as any other:""",
    ),
    (
        "code",
        """model = c2s.load_model("aligned/model")
cells = c2s.tl.generate(model, "beta", n=3)
cells.obs["cell_sentence"].str.split().str[:6].str.join(" ").tolist()""",
    ),
    (
        "md",
        """## Where to go from here

- The guide [Align a model](../guide/align.md) has all rewards, the published settings (`policy: {preset: dong}`), adapters and several
  processes.
- Rewarding `negative_mse`, the distance to a randomly paired real cell, is what the paper did for cytokine responses. It is highest for
  the average cell, so watch the diversity; a higher `beta`, or `{name: diversity, distance: encoder}` beside it, holds some of it.""",
    ),
]
