"""Training on packed samples beside a padded loop such as `cell2sentence` has: useful tokens a second.

    python scripts/fetch_tokenizers.py
    python benchmarks/training.py --tokenizer .tokenizers/gpt-neox --json training.json

Both sides take the same optimiser steps, of 32 samples, with AdamW and clipping, on the same samples of pancreas cells
and equal copies of one model. A **useful token** is a token of a sample; padding is none.

- **padded** does what `fine_tune` of cell2sentence 1.2.0 does: 8 samples at a time, padded on the left to the longest
  of them, Hugging Face's own loss over the response, 4 such batches a step. That code itself stops on transformers 5
  (the Trainer takes no `tokenizer` any more), so this is an equivalent of it, without the Trainer's own work.
- **packed** is what `c2s train` does in a step: samples without padding, in passes of at most `--tokens-per-pass`
  tokens, attention within samples, the output head on learned tokens only.

Two kinds of data: a **mixture** of tasks, from a label behind one cell to samples of several cells; and cells of one
**fixed length**, where packing gains little. In each round everything runs once, in turn; a ratio is taken within its
round. Beside it the **floor**: 6 operations a weight and token at the rate of a large matrix product here.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from c2s.common.progress import no_progress
from c2s.corpus.build import build_from
from c2s.corpus.reader import ShardReader
from c2s.corpus.recipe import CorpusRecipe
from c2s.training.loop import batches_of
from c2s.training.packed_attention import attending_packed
from c2s.training.packed_network import PackedNetwork
from c2s.training.samples import IGNORE, TokenSample, samples_of

STEP, PADDED_BATCH = 32, 8
CONTEXT = 4096


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="of the text model; without it, genes are tokens of their own",
    )
    parser.add_argument("--tokens-per-pass", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=2, help="optimiser steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def corpus(folder: Path, tokenizer: Path | None, fixed: bool) -> tuple[list[TokenSample], int]:
    """Return samples in the order of training, and the size of the vocabulary."""
    content: dict[str, Any] = {
        "sources": [
            {
                "data": "pancreas",
                "values": {"organism": "Homo sapiens", "tissue": "pancreas", "donor": "one"},
            }
        ],
        "tokens": "genes" if tokenizer is None else "text",
        "context": CONTEXT,
        "samples_per_cell": 1.0,
        "split": {"few_donors": "cells"},
    }
    if tokenizer is not None:
        content["tokenizer"] = str(tokenizer.resolve())
    if fixed:
        content |= {"tasks": {"cond_cell": None}, "single_genes": [200, 200]}
    else:
        single = {"cell_type", "cond_cell", "sc_lm"}
        several = {"mc_lm", "sample_cell_types", "tissue"}
        content |= {
            "tasks": dict.fromkeys(sorted(single | several)),
            "single_genes": [100, 200],
            "multi_genes": [50, 100],
            "multi_cells": [5, 10],
        }
    recipe = CorpusRecipe.parse(content, "benchmark")
    build_from(recipe, Path(), folder, workers=1, on_stage=no_progress)
    reader = ShardReader(folder, "train", packed=False, seed=0, rank=0, world_size=1)
    samples = [
        s for item in itertools.islice(reader, 512) for s in samples_of(item, reader.task_names)
    ]
    from c2s.tokens.tokenizer import load_tokenizer

    return samples, len(load_tokenizer(folder / "tokenizer"))


def network(vocabulary: int, text: bool) -> Any:
    """Return a GPT-NeoX: 17.6 million weights in text mode, else the shape of the preset `mini`."""
    hidden, layers, heads = (256, 6, 8) if text else (128, 2, 4)
    config = GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def padded_step(model: Any, samples: Sequence[TokenSample]) -> float:
    """Leave the gradients of a step; return its loss."""
    total = 0.0
    batches = [samples[k : k + PADDED_BATCH] for k in range(0, len(samples), PADDED_BATCH)]
    for batch in batches:
        longest = max(len(s.ids) for s in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORE)
        mask = torch.zeros_like(ids)
        for row, sample in enumerate(batch):
            start = longest - len(sample.ids)
            ids[row, start:] = torch.from_numpy(sample.ids)
            labels[row, start + sample.prompt_length :] = ids[row, start + sample.prompt_length :]
            mask[row, start:] = 1
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss / len(batches)
        loss.backward()
        total += float(loss)
    return total


def packed_step(packed: PackedNetwork, samples: Sequence[TokenSample], tokens: int) -> float:
    """Leave the gradients of a step; return its loss."""
    batches = batches_of(samples, "response", tokens, task_names=(), context=CONTEXT)
    weight = sum(packed.total_weight(b) for b in batches)
    total = 0.0
    for batch in batches:
        loss, _ = packed(batch, weight)
        loss.backward()
        total += float(loss)
    return total


def seconds(
    step: Callable[[Sequence[TokenSample]], float], model: Any, steps: list[list[TokenSample]]
) -> float:
    """Return how long the optimiser steps take."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    started = time.perf_counter()
    for samples in steps:
        step(samples)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def matmul_rate() -> float:
    """Return the operations a second of a large matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times)


def measure(options: argparse.Namespace, fixed: bool, folder: Path) -> dict[str, Any]:
    """Run both sides in turn on one kind of data."""
    name = "fixed length" if fixed else "mixture"
    samples, vocabulary = corpus(folder, options.tokenizer, fixed)
    lengths = sorted(len(s.ids) for s in samples)
    base = network(vocabulary, options.tokenizer is not None)
    padded, plain = copy.deepcopy(base), copy.deepcopy(base)
    packed = PackedNetwork(plain)
    n_weights = sum(p.numel() for p in base.parameters())
    print(
        f"{name}: {len(samples)} samples of {lengths[0]}–{lengths[-1]} tokens (median {lengths[len(lengths) // 2]}), "
        f"{n_weights:,} weights, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    rounds: list[dict[str, float]] = []
    for k in range(options.rounds + 1):
        at = k * STEP * options.steps % (len(samples) - STEP * options.steps)
        steps = [samples[at + i * STEP : at + (i + 1) * STEP] for i in range(options.steps)]
        if k == 0:
            steps = steps[:1]  # warms up, and is not counted
        tokens = sum(len(s.ids) for step in steps for s in step)
        of_padded = seconds(lambda s: padded_step(padded, s), padded, steps)
        with attending_packed(plain):
            of_packed = seconds(
                lambda s: packed_step(packed, s, options.tokens_per_pass), plain, steps
            )
        floor = 6 * n_weights * tokens / matmul_rate()
        if k:
            rounds.append(
                {
                    "padded": tokens / of_padded,
                    "packed": tokens / of_packed,
                    "ratio": of_padded / of_packed,
                    "times the floor": of_packed / floor,
                }
            )
            print(
                f"  round {k}: " + ", ".join(f"{n} {v:,.2f}" for n, v in rounds[-1].items()),
                flush=True,
            )
    summary = {
        n: {"median": statistics.median(v), "range": [min(v), max(v)]}
        for n in rounds[0]
        for v in [[r[n] for r in rounds]]
    }
    for n, v in summary.items():
        print(f"  {n}: {v['median']:,.2f} ({v['range'][0]:,.2f}–{v['range'][1]:,.2f})", flush=True)
    return {
        "data": name,
        "lengths": lengths,
        "weights": n_weights,
        "rounds": rounds,
        "summary": summary,
    }


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    threads = torch.get_num_threads()
    results = []
    with tempfile.TemporaryDirectory(prefix="c2s-training-") as scratch:
        for fixed in (False, True):
            folder = Path(scratch) / ("fixed" if fixed else "mixture")
            results.append(measure(options, fixed, folder))
            torch.set_num_threads(threads)
    if options.json:
        facts = {"threads": threads, "machine": platform.machine(), "load": os.getloadavg()}
        options.json.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
