"""Memory of training: computed for every preset, and measured where it fits.

    python benchmarks/training_memory.py                 # the computed table; about two minutes on one core
    python benchmarks/training_memory.py --measure       # the estimate beside the resident memory of fresh processes

Computed: one device, AdamW in float32 beside weights in float32, computing in bfloat16, samples of 512 tokens of which
a tenth is learned, several passes a step. LoRA: rank 16 on all linear layers. Measured: peak resident memory of a
process that takes two steps, less what the same process holds with its libraries loaded and one tiny step taken. The C
library is told to give large blocks back at once (MALLOC_MMAP_THRESHOLD_); by itself it keeps some of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from typing import Any

from c2s.cli.training_plan import in_words

PRESETS = ("pythia-410m", "pythia-1b", "gemma-2-2b", "gemma-2-9b", "gemma-2-27b")
SAMPLE, TOKENS = 512, 8192

#: What is measured: kind of network, hidden size, layers, tokens of a pass, checkpointing.
MEASURED = [
    (kind, hidden, layers, tokens, checkpointing)
    for kind in ("gpt_neox", "llama", "gemma2")
    for hidden, layers, tokens in ((128, 4, 2048), (256, 4, 2048), (256, 4, 4096))
    for checkpointing in (False, True)
]


def with_lora(network: Any) -> Any:
    """Return a network with adapters of rank 16."""
    import peft

    return peft.get_peft_model(
        network, peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def computed() -> None:
    """Print the table of the presets."""
    from c2s.models.presets import get_preset
    from c2s.training.memory import PassShape, estimate_memory

    shape = PassShape(TOKENS // SAMPLE, SAMPLE, TOKENS // 10)
    print(
        "| preset | trained | checkpointing | weights | gradients | optimiser | activations | loss | peak |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for preset in PRESETS:
        for trained, change in (("all", None), ("LoRA", with_lora)):
            for checkpointing in (False, True):
                found = estimate_memory(
                    get_preset(preset).config(1), shape, checkpointing=checkpointing,
                    precision="bfloat16", change=change,
                )  # fmt: skip
                values = " | ".join(in_words(v) for v in found.to_dict().values())
                print(
                    f"| {preset} | {trained} | {'yes' if checkpointing else 'no'} | {values} |",
                    flush=True,
                )


def shape_of(kind: str, hidden: int, layers: int) -> Any:
    """Return a small configuration."""
    import transformers

    common = {
        "vocab_size": 8192, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4,
        "intermediate_size": 4 * hidden, "max_position_embeddings": 1024,
    }  # fmt: skip
    if kind == "gpt_neox":
        return transformers.GPTNeoXConfig(**common)
    if kind == "llama":
        return transformers.LlamaConfig(**common)
    return transformers.Gemma2Config(**common, num_key_value_heads=2, head_dim=hidden // 4)


def one(kind: str, hidden: int, layers: int, tokens: int, checkpointing: bool) -> None:
    """Take three steps in this process and print what it held, and what was estimated."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from c2s.training.memory import PassShape, estimate_memory
    from c2s.training.packed_attention import attending_packed
    from c2s.training.packed_network import PackedNetwork
    from c2s.training.samples import TokenSample, flatten

    def steps(config: Any, n_tokens: int, n_steps: int) -> None:
        network = AutoModelForCausalLM.from_config(config).train()
        if checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        packed = PackedNetwork(network)
        optimiser = torch.optim.AdamW(network.parameters(), fused=True)
        length = min(SAMPLE, n_tokens)
        samples = [
            TokenSample(np.arange(length) % 1000, length * 9 // 10)
            for _ in range(n_tokens // length)
        ]
        batch = flatten(samples)
        with attending_packed(network):
            for _ in range(n_steps):
                for _ in range(2):
                    packed(batch, 2.0 * len(samples))[0].backward()
                optimiser.step()
                optimiser.zero_grad()

    steps(shape_of(kind, 32, 2), 64, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    config = shape_of(kind, hidden, layers)
    steps(config, tokens, 2)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    learned = tokens // SAMPLE * (SAMPLE - SAMPLE * 9 // 10)
    found = estimate_memory(
        config, PassShape(tokens // SAMPLE, SAMPLE, learned), checkpointing=checkpointing
    )
    print(json.dumps({"held": held, "estimated": found.peak}))


def measured() -> None:
    """Print the estimate beside what fresh processes held."""
    print(
        "| network | hidden | layers | tokens a pass | checkpointing | estimated | held | ratio |"
    )
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for case in MEASURED:
        command = [sys.executable, "-W", "ignore", __file__, "--one", json.dumps(case)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True,
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
        kind, hidden, layers, tokens, checkpointing = case
        print(
            f"| {kind} | {hidden} | {layers} | {tokens:,} | {'yes' if checkpointing else 'no'} | "
            f"{in_words(found['estimated'])} | {in_words(found['held'])} | "
            f"{found['estimated'] / found['held']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*json.loads(arguments.one))
    elif arguments.measure:
        measured()
    else:
        computed()
