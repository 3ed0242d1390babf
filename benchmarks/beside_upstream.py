"""Annotation, embedding and generation beside the `cell2sentence` package: one model, the same cells, in turn.

    pip install --no-deps cell2sentence==1.2.0 plotnine mizani; pip install datasets
    python scripts/fetch_tokenizers.py
    python benchmarks/text_model.py text-model
    python benchmarks/beside_upstream.py text-model --json beside.json
    python benchmarks/beside_upstream.py --plain smollm2/ --annotate 4 --embed 8 --generate 2 --rounds 2

The package is asked as its own functions ask (`generate_from_prompt`, `embed_cells_batched` and
`generate_from_prompt_batched`, its batch of eight), but with the model loaded once, in float32, and prompts made
beforehand, so that it is measured at its best. Ours are the verbs `c2s.tl.annotate`, `embed` and `generate` with all
that they do, ranking included. A model as little trained as this one often ends a cell at once; so the package is told
to write as many tokens as a real cell has: its batch of eight, beside `--generate-own` cells in our default batch.

The **floor** is one forward pass of the network's body, without output head, cache or autograd, over the same tokens
without padding, at its best batch size. In each round everything runs once; a ratio, of cells a second, is taken within
its round. `--plain` takes a Hugging Face folder that never saw cells: speed only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

import c2s
from annotate import best_size, floor, seconds
from c2s.analysis.cells import cells_for_model, condition_texts
from c2s.cells.vocabulary import GeneVocabulary
from c2s.decoding.prompts import label_prompts
from c2s.models.directory import Model, attach, load_model
from c2s.tasks.single_cell import CELL_TYPE

TOP_K = 200
#: What the tutorials of the package sample with, by its own API's names.
SAMPLING = {"do_sample": True, "top_k": 50, "top_p": 0.95}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?", help="what text_model.py wrote")
    parser.add_argument("--plain", type=Path, help="a Hugging Face folder instead; speed only")
    parser.add_argument("--annotate", type=int, default=32, help="cells annotated in a round")
    parser.add_argument("--embed", type=int, default=32, help="cells embedded in a round")
    parser.add_argument(
        "--generate", type=int, default=8, help="cells that the package generates in a round"
    )
    parser.add_argument(
        "--generate-own", type=int, default=32, help="cells that we generate in a round"
    )
    parser.add_argument(
        "--accuracy", type=int, default=0, help="cells annotated by both once, for their accuracy"
    )
    parser.add_argument(
        "--upstream-batch", type=int, default=8, help="the package's own batch size"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if (options.folder is None) == (options.plain is None):
        parser.error("give either what text_model.py wrote, or --plain")
    return options


def load(options: argparse.Namespace) -> tuple[Model, Path, AnnData]:
    """Return the model, its folder, and cells that it was not trained on."""
    adata = c2s.datasets.pancreas()
    labels = sorted(adata.obs["cell_type"].astype(str).unique())
    if options.plain is not None:
        conditions = {"cell_type": labels, "organism": ["Homo sapiens"]}
        model = attach(
            options.plain, GeneVocabulary.from_var(adata.var), top_k=TOP_K, prompts="upstream", conditions=conditions
        )  # fmt: skip
        return model, options.plain, adata
    split = pd.read_csv(options.folder / "split.csv").set_index("cell_id")["split"]
    held_out = adata[(split.loc[adata.obs_names] == "test").to_numpy()].copy()
    return load_model(options.folder / "model"), options.folder / "model", held_out


class Upstream:
    """The package, with a model that is loaded once."""

    def __init__(self, folder: Path, batch: int, tokens_a_cell: int) -> None:
        import cell2sentence as cs
        from transformers import AutoModelForCausalLM

        self.scratch = tempfile.TemporaryDirectory(prefix="beside-upstream-")
        with quiet():
            self.model = cs.CSModel(str(folder), self.scratch.name, "model")
            self.network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.batch, self.tokens_a_cell = batch, tokens_a_cell

    def prompts(self, task: str, cells: AnnData) -> list[str]:
        """Return what the package asks about cells (annotation), or for cells of their types (generation)."""
        import cell2sentence as cs
        from cell2sentence.prompt_formatter import C2SPromptFormatter

        made = C2SPromptFormatter(task=task, top_k_genes=TOP_K)
        if task == "cell_type_generation":
            return [
                random.choice(made.prompts_dict["model_input"]).format(
                    num_genes=TOP_K, organism="Homo sapiens", cell_type=name
                )
                for name in cells.obs["cell_type"].astype(str)
            ]
        cells = cells.copy()
        cells.obs["organism"] = "Homo sapiens"
        with quiet():
            table, _ = cs.CSData.adata_to_arrow(cells, label_col_names=["cell_type", "organism"])
            return list(made.format_hf_ds(table)["model_input"])

    def annotate(self, prompts: Sequence[str]) -> list[str]:
        """Return what the model writes behind each prompt, one at a time, as the package does."""
        with quiet():
            return [self.model.generate_from_prompt(self.network, prompt=p) for p in prompts]

    def embed(self, prompts: Sequence[str]) -> np.ndarray:
        """Return embeddings in the package's batches."""
        batches = [prompts[i : i + self.batch] for i in range(0, len(prompts), self.batch)]
        return np.stack(
            [x for b in batches for x in self.model.embed_cells_batched(self.network, list(b))]
        )

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Return what is written behind each prompt, in the package's batches, as long as a real cell."""
        batches = [list(prompts[i : i + self.batch]) for i in range(0, len(prompts), self.batch)]
        length = {"min_new_tokens": self.tokens_a_cell, "max_num_tokens": self.tokens_a_cell + 1}
        ask = self.model.generate_from_prompt_batched
        with quiet():
            return [text for b in batches for text in ask(self.network, b, **length, **SAMPLING)]


@contextlib.contextmanager
def quiet() -> Any:
    """Keep what the package prints off the screen."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def own_prompts(model: Model, cells: AnnData) -> list[np.ndarray]:
    texts = condition_texts(cells, model, CELL_TYPE, {})
    return label_prompts(
        model, CELL_TYPE, cells_for_model(cells, model), texts, np.arange(cells.n_obs)
    )


def valid_share(texts: Sequence[str], words: frozenset[str]) -> dict[str, float]:
    """Return the shares of words that are genes, of repeats among them, and of cells of exactly K different genes."""
    split = [text.rstrip(".").split() for text in texts]
    words_of = [w for cell in split for w in cell]
    good = [len(set(cell)) == len(cell) == TOP_K and set(cell) <= words for cell in split]
    return {
        "words that are genes": sum(w in words for w in words_of) / max(1, len(words_of)),
        "repeated words": 1 - sum(len(set(c)) for c in split) / max(1, len(words_of)),
        f"cells of exactly {TOP_K} different genes": float(np.mean(good)),
    }


def measured(
    model: Model, upstream: Upstream, cells: AnnData, options: argparse.Namespace
) -> dict[str, Any]:
    """Run everything in each round; return seconds by task and side."""
    sizes = {"annotate": options.annotate, "embed": options.embed, "generate": options.generate}
    part = {name: cells[:: max(1, cells.n_obs // n)][:n].copy() for name, n in sizes.items()}
    asked = {name: upstream.prompts("cell_type_generation" if name == "generate" else "cell_type_prediction", of)
             for name, of in part.items()}  # fmt: skip
    tokens = {name: own_prompts(model, part[name]) for name in ("annotate", "embed")}
    best, _ = best_size(model, tokens["embed"])
    kinds = np.resize(part["generate"].obs["cell_type"].astype(str), options.generate_own).tolist()
    n_cells = {(name, side): options.generate_own if (name, side) == ("generate", "ours") else of.n_obs
               for name, of in part.items() for side in ("package", "floor", "ours")}  # fmt: skip
    written: dict[str, list[str]] = {}

    def ours(seed: int) -> None:
        made = c2s.tl.generate(
            model, kinds, 1, organism="Homo sapiens", top_k=TOP_K, seed=seed, top_p=0.95
        )
        written["ours"] = made.obs["cell_sentence"].tolist()

    def theirs() -> None:
        written["package"] = upstream.generate(asked["generate"])

    # Compiled, and once through, before anything is timed.
    c2s.tl.annotate(part["annotate"][:2].copy(), model)
    c2s.tl.generate(model, kinds[:1], 1, organism="Homo sapiens", top_k=TOP_K)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in part}
    for round_ in range(options.rounds):
        ways: dict[str, dict[str, Callable[[], object]]] = {
            "annotate": {
                "package": lambda: upstream.annotate(asked["annotate"]),
                "floor": lambda: floor(model, tokens["annotate"], best),
                "ours": lambda: c2s.tl.annotate(part["annotate"], model),
            },
            "embed": {
                "package": lambda: upstream.embed(asked["embed"]),
                "floor": lambda: floor(model, tokens["embed"], best),
                "ours": lambda: c2s.tl.embed(part["embed"], model),
            },
            "generate": {"package": theirs, "ours": lambda seed=round_: ours(seed)},
        }
        for name, sides in ways.items():
            for side, work in sides.items():
                found[name].setdefault(side, []).append(seconds(work))
        print(f"round {round_ + 1}: " + "; ".join(
            f"{name} " + ", ".join(f"{side} {n_cells[name, side] / s[-1]:.2f}/s" for side, s in sides.items())
            for name, sides in found.items()), flush=True)  # fmt: skip
    words = frozenset(model.vocabulary.words)
    return {
        "seconds a cell": {
            name: {side: [t / n_cells[name, side] for t in s] for side, s in sides.items()}
            for name, sides in found.items()
        },
        "cells": {name: of.n_obs for name, of in part.items()}
        | {"generated by us": options.generate_own},
        "tokens a prompt": float(np.mean([len(p) for p in tokens["embed"]])),
        "best batch of the floor": best,
        "valid": {side: valid_share(texts, words) for side, texts in written.items()},
    }


def summary(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return cells a second (median) and ratios of each task, median and range over rounds."""
    table: dict[str, dict[str, Any]] = {}
    for name, sides in result["seconds a cell"].items():
        row: dict[str, Any] = {
            side: round(1 / statistics.median(s), 3) for side, s in sides.items()
        }
        for other, label in (("package", "times the package"), ("floor", "of the floor")):
            if other in sides:
                ratios = [a / b for a, b in zip(sides[other], sides["ours"], strict=True)]
                ratios = [1 / r for r in ratios] if other == "floor" else ratios
                row[label] = [
                    round(x, 2) for x in (statistics.median(ratios), min(ratios), max(ratios))
                ]
        table[name] = row
    return table


def accuracy(model: Model, upstream: Upstream, cells: AnnData, n: int) -> dict[str, float]:
    """Return the shares of cells that both annotate rightly, and of the package's answers that are labels at all."""
    part = cells[:: max(1, cells.n_obs // n)][:n].copy()
    truth = part.obs["cell_type"].astype(str).to_numpy()
    said = [
        x.strip().rstrip(".")
        for x in upstream.annotate(upstream.prompts("cell_type_prediction", part))
    ]
    c2s.tl.annotate(part, model)
    return {
        "cells": part.n_obs,
        "package": float((np.array(said) == truth).mean()),
        "package, answers that are labels": float(np.isin(said, model.known("cell_type")).mean()),
        "ours": float((part.obs["c2s_cell_type"].astype(str).to_numpy() == truth).mean()),
    }


def pooling(model: Model, upstream: Upstream, cells: AnnData) -> dict[str, float]:
    """Return how much an embedding changes with the cells beside it, relative to its length: both packages."""
    part = cells[:8].copy()
    prompts = upstream.prompts("cell_type_prediction", part)
    alone, together = np.stack([upstream.embed([p])[0] for p in prompts]), upstream.embed(prompts)
    c2s.tl.embed(part, model, key_added="together")
    c2s.tl.embed(part, model, key_added="alone", batch_size=1)
    ours = part.obsm["together"] - part.obsm["alone"]
    return {
        "package": float(
            (np.linalg.norm(together - alone, axis=1) / np.linalg.norm(alone, axis=1)).max()
        ),
        "ours": float(
            (np.linalg.norm(ours, axis=1) / np.linalg.norm(part.obsm["alone"], axis=1)).max()
        ),
    }


def main() -> None:
    """Run the comparison, print it, and write it where asked."""
    options = parse()
    from ranking import machine

    random.seed(0)
    torch.manual_seed(0)
    model, folder, cells = load(options)
    real = cells_for_model(cells[:64].copy(), model)
    tokens = [len(model.tokenizer.gene_tokens.gather(real.to_columns(i))) for i in range(len(real))]
    upstream = Upstream(folder, options.upstream_batch, round(float(np.mean(tokens))))
    print(f"{model.n_parameters:,} parameters, {cells.n_obs:,} cells to draw from, "
          f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    result: dict[str, Any] = {"machine": machine(), "parameters": model.n_parameters}
    result["tokens a cell"] = upstream.tokens_a_cell
    result.update(measured(model, upstream, cells, options))
    result["pooling"] = pooling(model, upstream, cells)
    if options.accuracy:
        result["accuracy"] = accuracy(model, upstream, cells, options.accuracy)
    result["summary"] = summary(result)
    print(
        json.dumps(
            {k: v for k, v in result.items() if k not in ("seconds a cell", "machine")}, indent=1
        )
    )
    if options.json:
        from c2s.common.files import atomic_file

        with atomic_file(options.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
