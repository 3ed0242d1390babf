"""How fast a device multiplies matrices: what training on it is compared with."""

from __future__ import annotations

import time
from typing import Any

import torch

from c2s.models.weights import n_weights


def training_flops(network: Any, *, tokens: float, learned: float, pairs: float) -> float:
    """Return the floating-point operations that training on samples needs, forward and backward.

    Six a weight and token (Kaplan et al. 2020, arXiv:2001.08361), four where weights are frozen. The table of input
    embeddings multiplies nothing, the output head only the tokens that are learned. Attention counts half of all pairs
    of tokens, those that a causal mask leaves. What is computed again for the sake of memory is not counted.

    Parameters
    ----------
    network
        A causal language model; it may be without memory for its weights.
    tokens, learned
        Tokens of the samples, and those of them that are learned.
    pairs
        Sum of the squared lengths of the samples.
    """
    config = network.config
    table, head = network.get_input_embeddings(), network.get_output_embeddings()
    ends = {id(p) for m in (table, head) for p in m.parameters()}
    between = [p for p in network.parameters() if id(p) not in ends]
    inner, trained = n_weights(between), n_weights(p for p in between if p.requires_grad)
    n_head = sum((6 if p.requires_grad else 4) * n_weights([p]) for p in head.parameters())
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 6 * config.num_hidden_layers * width * pairs
    return (4 * inner + 2 * trained) * tokens + n_head * learned + attention


def matrix_rate(
    device: str | torch.device, dtype: torch.dtype = torch.float32, seconds: float = 0.3
) -> float:
    """Return the floating-point operations a second of large matrix products, measured in less than a second.

    Parameters
    ----------
    device, dtype
        Where, and of which numbers.
    seconds
        How long is measured.
    """
    device = torch.device(device)
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, device=device, dtype=dtype)
    b = torch.ones(size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)

    def run() -> float:
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - started

    run()  # the first one loads the kernel
    times = [run()]
    while sum(times) < seconds:
        times.append(run())
    # The fastest: what the device can do, whoever else is on it.
    return 2 * size**3 / min(times)


def device_name(device: str | torch.device) -> str:
    """Return what a device is called."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return device.type
