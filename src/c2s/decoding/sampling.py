"""How the next token is drawn: by inverting a cumulative distribution at a number that belongs to the draw.

The number is hashed from (seed, sequence, step), so no draw depends on what else is in the batch, on how many tokens
are computed in one pass, or on which of them were guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import UsageError
from c2s.common.seeds import mix64

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from what the constraint allows.

    Attributes
    ----------
    temperature
        Divides the logits; 0 takes the most probable token. A pair is that of the first and of the last gene
        of a cell; between them it goes in equal steps.
    top_k, top_p
        Keep only the most probable tokens: at most so many, or the fewest that reach this probability.
        0 and 1 keep all. The public tutorials use 50 and 0.95 (SPEC §6); a constraint needs neither.
    seed
        With the position of a prompt in the request it decides every draw, whatever the batch size.
    """

    temperature: float | tuple[float, float] = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.temperature, list | np.ndarray):  # as a recipe or an array gives a pair
            object.__setattr__(self, "temperature", tuple(map(float, self.temperature)))
        if isinstance(self.temperature, tuple) and len(self.temperature) != 2:
            raise UsageError(
                f"temperature={self.temperature}: expected one number, or those of the first and of the last gene"
            )
        ends = self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)
        if min(ends) < 0:
            raise UsageError(f"temperature={self.temperature} is below 0")
        if not np.isfinite(ends).all():
            raise UsageError(f"temperature={self.temperature} is not a finite number")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p={self.top_p} is outside (0, 1]")
        if self.top_k < 0:
            raise UsageError(f"top_k={self.top_k} is below 0")

    def temperatures(self, progress: np.ndarray) -> np.ndarray:
        """Return the temperature at each place in a cell, 0 at its first gene and 1 at its last. float64."""
        progress = np.asarray(progress, dtype=np.float64)
        if not isinstance(self.temperature, tuple):
            return np.full(progress.shape, float(self.temperature))
        first, last = self.temperature
        return first + (last - first) * progress

    def temperatures_by_rank(self, n_genes: int) -> np.ndarray:
        """Return the temperature of each gene of a cell. float64, shape (n_genes,)."""
        return self.temperatures(np.arange(n_genes) / max(n_genes - 1, 1))


def choose(
    logits: torch.Tensor,
    sampling: Sampling,
    uniforms: np.ndarray,
    progress: np.ndarray | None = None,
) -> torch.Tensor:
    """Draw one token a row by inverting the cumulative distribution at given uniform numbers.

    Parameters
    ----------
    logits : float tensor, shape (batch, vocabulary)
        −inf where a token is not allowed.
    sampling
        Temperature, top-k, top-p.
    uniforms : float64 array, shape (batch,)
        In [0, 1).
    progress : float array, shape (batch,), optional
        Where in its cell each row stands, for temperatures by rank; by default at the beginning.

    Returns
    -------
    int64 tensor, shape (batch,)
    """
    import torch

    where = np.zeros(len(logits)) if progress is None else progress
    temperatures = sampling.temperatures(where)
    greedy = logits.argmax(-1)
    if not temperatures.any():
        return greedy
    logits = in_double(logits)
    temperature = torch.as_tensor(temperatures, device=logits.device)
    logits = logits / temperature.where(temperature > 0, 1.0)[:, None]
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        lowest = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, which = probabilities.sort(dim=-1, descending=True)
        # A token stays if those before it have not yet reached top_p.
        ordered = ordered * (ordered.cumsum(-1) - ordered < sampling.top_p)
        probabilities = torch.zeros_like(probabilities).scatter(-1, which, ordered)
    cumulative = probabilities.cumsum(-1)
    at = torch.as_tensor(uniforms, device=logits.device)[:, None] * cumulative[:, -1:]
    # The first token whose cumulative probability exceeds the draw; one of probability 0 never does so first.
    drawn = (cumulative <= at).sum(-1).clamp(max=logits.shape[-1] - 1)
    return drawn.where(temperature > 0, greedy.to(drawn.device)).to(greedy.device)


def in_double(values: torch.Tensor) -> torch.Tensor:
    """Return numbers in float64; on the CPU where their own device has none, as Apple's GPUs. Gradients flow back."""
    # Moved first: a conversion on the device itself is what fails.
    return values.cpu().double() if values.device.type == "mps" else values.double()


def uniform_numbers(keys: np.ndarray, step: int) -> np.ndarray:
    """Return one uniform number in [0, 1) per sequence for a step, from hashes of (sequence, step)."""
    # Reduced by Python: NumPy warns where the product of two scalars overflows.
    offset = np.uint64((step + 1) * 0x9E3779B97F4A7C15 % 2**64)
    bits = mix64(keys + offset)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def keys_in_sample(keys: np.ndarray, cell: int) -> np.ndarray:
    """Return the keys of one cell of each answer, from the answers' keys and the cell's number. uint64, the same shape.

    What a cell draws so depends on its number, never on how many tokens those before it took.
    """
    # Another step than that of `uniform_numbers`, whose numbers these keys are then used for.
    offset = np.uint64((cell + 1) * 0xD1342543DE82EF95 % 2**64)
    return mix64(keys + offset)
