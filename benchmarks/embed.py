"""Embedding beside its floor, and beside the first version: large batches, padded on the left, with a mask.

    python scripts/fetch_tokenizers.py
    python benchmarks/embed.py --json embed.json

A GPT-NeoX of 17.6 million random weights (hidden 256, 6 layers) with its tokenizer in `text` mode, and pancreas cells
of 200 genes. The **floor** is one forward pass of the network's body, without output head, cache or autograd, over as
many tokens without any padding, at the batch size that suits it best (tried beforehand). In each round everything runs
once, in turn, on the same cells; a ratio is taken within its round. Before, both ways are checked to agree.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from annotate import beside_the_floor, best_size, floor, model_and_cells
from c2s.decoding.engine import TransformersEngine
from c2s.models.directory import Model

FLOOR = "floor: the body over the same tokens"
NEW = "embedding"
OLD = "embedding: padded on the left, with a mask"


def left_padded(model: Model, prompts: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Embed as the toolkit did at first."""
    engine = TransformersEngine(model)
    order = np.argsort([-len(p) for p in prompts], kind="stable")
    embedded = np.empty((len(prompts), model.network.config.hidden_size), np.float32)
    for start in range(0, len(prompts), size):
        rows = order[start : start + size]
        with torch.inference_mode():
            ids, mask = engine._left_padded([prompts[i] for i in rows])
            hidden = model.network.base_model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
            ).last_hidden_state
            weight = mask[..., None].float()
            embedded[rows] = ((hidden * weight).sum(1) / weight.sum(1)).numpy()
    return embedded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path(".tokenizers/gpt-neox"))
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="of embedding; by default the engine's own")
    parser.add_argument("--old-batch-size", type=int, default=23)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    model, prompts, _ = model_and_cells(options.tokenizer, options.cells)
    engine = TransformersEngine(model, options.batch_size)
    lengths = [len(p) for p in prompts]
    print(
        f"{model.n_parameters:,} parameters, {len(prompts)} cells of {np.mean(lengths):.0f} tokens "
        f"({min(lengths)}–{max(lengths)}), {torch.get_num_threads()} threads, {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    difference = float(np.abs(engine.embed(prompts[:4]) - left_padded(model, prompts[:4], 4)).max())
    print(f"largest difference of the two: {difference:.1e}")
    best, by_size = best_size(model, prompts)
    runs: dict[str, Callable[[], object]] = {
        FLOOR: lambda: floor(model, prompts, best),
        NEW: lambda: engine.embed(prompts),
        OLD: lambda: left_padded(model, prompts, options.old_batch_size),
    }
    result = beside_the_floor(runs, len(prompts), options.rounds)
    if options.json:
        options.json.write_text(
            json.dumps({"difference": difference, "floor": by_size, **result}, indent=1)
        )


if __name__ == "__main__":
    main()
