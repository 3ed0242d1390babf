"""Train the text-mode model that `beside_upstream.py` asks, with the wording of the `cell2sentence` package.

    pip install --no-deps cell2sentence==1.2.0
    python scripts/fetch_tokenizers.py
    python benchmarks/text_model.py text-model

A GPT-NeoX of 17.6 million weights (hidden 256, 6 layers, tied head) with its tokenizer, on 80 % of the packaged
pancreas cells: annotation and conditional generation, 200 genes a cell. It is no good model; it is one that both
packages can ask in the words it was trained with. The folder gets the model directory and `split.csv`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.files import atomic_directory
from c2s.corpus.online import CellTable, OnlineExamples, TaskMix
from c2s.corpus.splits import split_cells
from c2s.datasets import pancreas
from c2s.models.directory import Model, ModelCard
from c2s.studies.train import read_counts
from c2s.tokens.tokenizer import CellTokenizer, load_tokenizer
from c2s.training.sft import Optimisation, train

TOP_K = 200


def main() -> None:
    """Train and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=Path(".tokenizers/gpt-neox"))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument(
        "--annotation", type=float, default=3.0, help="weight of annotation; generation has 1"
    )
    parser.add_argument(
        "--thin", type=float, default=0.5, help="smallest share of molecules kept in annotation"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    adata = pancreas()
    counts, vocabulary, ids = read_counts(adata)
    labels = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    split = split_cells(labels, (0.8, 0.0, 0.2), options.seed)
    rows = np.flatnonzero(split == "train")
    organism = np.full(len(rows), "Homo sapiens", dtype=object)
    cells = CellTable(
        counts[rows], vocabulary, ids[rows], {"cell_type": labels[rows], "organism": organism}
    )
    model = new(options, vocabulary, sorted(set(labels[rows])))
    mixes = {
        "cell_type": TaskMix(weight=options.annotation, thin=options.thin),
        "cond_cell": TaskMix(weight=1.0),
    }
    optimisation = Optimisation(
        steps=options.steps,
        batch_size=options.batch_size,
        optimizer="muon",
        learning_rate=1e-3,
        eval_every=10**9,
    )
    stream = OnlineExamples(
        cells, mixes, model.prompts, TOP_K, options.steps * options.batch_size, options.seed
    )
    started = time.perf_counter()
    done = [0]

    def progress(steps: int) -> None:
        done[0] += steps
        if done[0] % 10 == 0:
            print(
                f"step {done[0]:,} of {options.steps:,}, {time.perf_counter() - started:,.0f} s",
                flush=True,
            )

    log = train(model, stream, optimisation, seed=options.seed, progress=progress)
    print(*log.losses[-4:], sep="\n")
    with atomic_directory(options.out) as folder:
        model.save(folder / "model")
        pd.DataFrame({"cell_id": ids, "split": split}).to_csv(folder / "split.csv", index=False)


def new(options: argparse.Namespace, vocabulary: GeneVocabulary, labels: list[str]) -> Model:
    """Return the model with random weights."""
    tokenizer = CellTokenizer(load_tokenizer(options.tokenizer), vocabulary, "text")
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer.backend), hidden_size=256, num_hidden_layers=6, num_attention_heads=8,
        intermediate_size=1024, max_position_embeddings=2048, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        bos_token_id=tokenizer.eos_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    torch.manual_seed(options.seed)
    card = ModelCard(
        vocabulary=list(vocabulary.words), symbols=list(vocabulary.symbols), mode="text", top_k=TOP_K,
        prompts="upstream", tasks=["cell_type", "cond_cell"],
        conditions={"cell_type": labels, "organism": ["Homo sapiens"]},
    )  # fmt: skip
    return Model(GPTNeoXForCausalLM(config), tokenizer, card)


if __name__ == "__main__":
    main()
