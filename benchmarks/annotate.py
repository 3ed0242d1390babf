"""Annotation beside its floor, and beside scoring with a copy of the prompt's cache for each label.

    python scripts/fetch_tokenizers.py
    python benchmarks/annotate.py --json annotate.json

A GPT-NeoX of 17.6 million random weights (hidden 256, 6 layers, tied head) with its tokenizer in `text` mode, pancreas
cells of 200 genes, and all their labels. The **floor** is one forward pass of the network's body, without output head,
cache or autograd, over as many tokens without any padding, at the batch size that suits it best (tried beforehand). In
each round everything runs once, in turn, on the same cells; a ratio is taken within its round. Before, both ways of
scoring are checked to give the same log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from c2s.analysis.cells import cells_for_model, condition_texts
from c2s.cells.vocabulary import GeneVocabulary
from c2s.datasets import pancreas
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompts import label_prompts
from c2s.models.directory import Model, ModelCard
from c2s.tasks.single_cell import CELL_TYPE
from c2s.tokens.tokenizer import CellTokenizer, load_tokenizer

FLOOR = "floor: the body over the same tokens"
NEW = "annotation: labels as a tree"
OLD = "annotation: a copied cache for each label"
#: Batch sizes tried for the floor.
SIZES = (1, 2, 4, 8, 16)


def model_and_cells(folder: Path, n_cells: int) -> tuple[Model, list[np.ndarray], list[list[int]]]:
    """Return the network, the prompts of cells and the tokens of every label."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    adata = pancreas()
    labels = sorted(adata.obs["cell_type"].astype(str).unique())
    vocabulary = GeneVocabulary.from_var(adata.var)
    tokenizer = CellTokenizer(load_tokenizer(folder), vocabulary, "text")
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer.backend), hidden_size=256, num_hidden_layers=6, num_attention_heads=8,
        intermediate_size=1024, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    conditions = {"cell_type": labels, "organism": ["Homo sapiens"]}
    card = ModelCard(
        vocabulary=list(vocabulary.words), mode="text", top_k=200, tasks=["cell_type"], conditions=conditions
    )  # fmt: skip
    model = Model(GPTNeoXForCausalLM(config).eval(), tokenizer, card)
    part = adata[:: adata.n_obs // n_cells][:n_cells].copy()
    cells = cells_for_model(part, model)
    texts = condition_texts(part, model, CELL_TYPE, {})
    prompts = label_prompts(model, CELL_TYPE, cells, texts, np.arange(n_cells))
    response = model.prompts.wording(CELL_TYPE.id).response
    answers = [
        [*tokenizer.encode(response.fill({"cell_type": x})).tolist(), tokenizer.eos_id]
        for x in labels
    ]
    return model, prompts, answers


def floor(model: Model, prompts: Sequence[np.ndarray], size: int) -> None:
    """Run the body over as many tokens as the prompts have, in rows of their mean length, `size` at once."""
    stream = np.concatenate(prompts)
    rows = torch.from_numpy(stream[: len(stream) // len(prompts) * len(prompts)])
    rows = rows.view(len(prompts), -1)
    with torch.inference_mode():
        for first in range(0, len(rows), size):
            model.network.base_model(input_ids=rows[first : first + size], use_cache=False)


def copied(
    model: Model, prompts: Sequence[np.ndarray], answers: Sequence[Sequence[int]], size: int
) -> np.ndarray:
    """Score as the toolkit did at first: the cache of each prompt is copied for each of its answers."""
    engine, n_answers, longest = TransformersEngine(model), len(answers), max(map(len, answers))
    tokens = torch.full((n_answers, longest), model.tokenizer.pad_id)
    real = torch.zeros((n_answers, longest), dtype=torch.bool)
    for row, answer in enumerate(answers):
        tokens[row, : len(answer)] = torch.as_tensor(answer)
        real[row, : len(answer)] = True
    order, scores = np.argsort([-len(p) for p in prompts]), np.empty((len(prompts), n_answers))
    for start in range(0, len(prompts), size):
        rows = order[start : start + size]
        n = len(rows)
        with torch.inference_mode():
            ids, mask = engine._left_padded([prompts[i] for i in rows])
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            out = model.network(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
            )  # fmt: skip
            first = out.logits[:, -1].float().log_softmax(-1)[:, tokens[:, 0]]
            cache = out.past_key_values
            cache.batch_repeat_interleave(n_answers)
            follow = model.network(
                input_ids=tokens[:, :-1].repeat(n, 1),
                attention_mask=torch.cat(
                    [mask.repeat_interleave(n_answers, 0), mask.new_ones(n * n_answers, longest - 1)], dim=1
                ),
                position_ids=positions[:, -1:].repeat_interleave(n_answers, 0) + torch.arange(1, longest),
                past_key_values=cache, use_cache=True,
            ).logits.float().log_softmax(-1)  # fmt: skip
            wanted = tokens[:, 1:].repeat(n, 1)
            each = follow.gather(-1, wanted[..., None])[..., 0] * real[:, 1:].repeat(n, 1)
            scores[rows] = (first.double() + each.double().sum(-1).view(n, -1)).numpy()
    return scores


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def best_size(model: Model, prompts: Sequence[np.ndarray]) -> tuple[int, dict[int, float]]:
    """Return the batch size at which the floor is fastest, and its seconds at each size."""
    by_size = {
        size: min(seconds(lambda s=size: floor(model, prompts, s)) for _ in range(2))
        for size in SIZES
    }
    print(
        "floor by batch size: "
        + ", ".join(f"{s}: {len(prompts) / t:.2f}/s" for s, t in by_size.items())
    )
    return min(by_size, key=lambda s: by_size[s]), by_size


def beside_the_floor(
    runs: dict[str, Callable[[], object]], n_cells: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Run everything once in each round, the first of `runs` being the floor; print and return rates and ratios."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, work in runs.items():
            times[name].append(seconds(work))
    result = {}
    for name, values in times.items():
        rates = [n_cells / t for t in values]
        ratios = [t / f for t, f in zip(values, next(iter(times.values())), strict=True)]
        result[name] = {"cells_per_second": rates, "times_the_floor": ratios}
        print(
            f"{name:45s} {statistics.median(rates):6.2f} cells/s ({min(rates):.2f}–{max(rates):.2f}), "
            f"{statistics.median(ratios):.3f} × the floor ({min(ratios):.3f}–{max(ratios):.3f})"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path(".tokenizers/gpt-neox"))
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="of annotation; by default the engine's own")
    parser.add_argument("--old-batch-size", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    model, prompts, answers = model_and_cells(options.tokenizer, options.cells)
    engine = TransformersEngine(model, options.batch_size)
    lengths = [len(p) for p in prompts]
    print(
        f"{model.n_parameters:,} parameters, {len(prompts)} cells of {np.mean(lengths):.0f} tokens "
        f"({min(lengths)}–{max(lengths)}), {len(answers)} labels of {np.mean([*map(len, answers)]):.1f} tokens, "
        f"{torch.get_num_threads()} threads, {platform.machine()}, load {os.getloadavg()[0]:.1f}"
    )
    difference = np.abs(
        engine.score(prompts[:4], answers) - copied(model, prompts[:4], answers, 4)
    ).max()
    print(f"largest difference of the log-probabilities of the two: {difference:.1e}")
    best, by_size = best_size(model, prompts)
    runs: dict[str, Callable[[], object]] = {
        FLOOR: lambda: floor(model, prompts, best),
        NEW: lambda: engine.score(prompts, answers),
        OLD: lambda: copied(model, prompts, answers, options.old_batch_size),
    }
    result = beside_the_floor(runs, len(prompts), options.rounds)
    if options.json:
        options.json.write_text(
            json.dumps({"difference": difference, "floor": by_size, **result}, indent=1)
        )


if __name__ == "__main__":
    main()
