"""What comes next, for engines that keep their own batch: vLLM asks for one token of each sequence at a time.

Such an engine decides which sequences are in a pass, drops some and reads them anew later, and asks for tokens that it
throws away, where a prompt is read in pieces. So nothing here moves on by itself: a sequence is told what was written
of it, and a token is drawn without being taken. The rule of drawing is that of `TransformersEngine`, with the same
numbers for the same (seed, sequence, step); so both engines write the same answers, up to rounding of the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from c2s.constraints.kernels import States
from c2s.constraints.trie import Constraint, GeneSentence, TokenState
from c2s.decoding.sampling import Sampling
from c2s.decoding.token_draws import draw_tokens

if TYPE_CHECKING:
    import torch

#: Sentences that room is made for at first.
_FIRST_ROWS = 8


class Stepper(Protocol):
    """Says what comes next in each of the sequences that an engine holds."""

    def start(self, sequence: int) -> int:
        """Begin a sequence, or begin it anew; return the name that it goes by until `stop`."""

    def stop(self, name: int) -> None:
        """Forget a sequence; its name may be given to another."""

    def draw(
        self,
        names: Sequence[int],
        written: Sequence[Sequence[int]],
        logits: torch.Tensor,
        rows: Sequence[int],
    ) -> np.ndarray:
        """Return the next token id of each sequence.

        Parameters
        ----------
        names
            Sequences, as `start` named them.
        written
            All tokens of each answer so far.
        logits : float tensor, shape (n_rows, vocabulary)
        rows
            The row of each sequence in `logits`.

        Returns
        -------
        int64 array, shape (n_sequences,)
        """


class SentenceStepper:
    """Draws cell sentences.

    Parameters
    ----------
    constraint
        What the sentences may be.
    sampling
        How tokens are drawn.
    keys : uint64 array, shape (n_sequences,)
        Decide the draws of each sentence.
    stop_token
        Returned for a sentence that is complete.
    """

    def __init__(
        self, constraint: GeneSentence, sampling: Sampling, keys: np.ndarray, stop_token: int
    ) -> None:
        self.constraint, self.sampling = constraint, sampling
        self.keys, self.stop_token = keys, stop_token
        self._states, self._fresh = constraint.start_many(_FIRST_ROWS), constraint.start_many(1)
        self._temperatures = sampling.temperatures_by_rank(constraint.n_genes)
        self._key_of = np.zeros(_FIRST_ROWS, np.uint64)
        self._free = list(range(_FIRST_ROWS))

    def start(self, sequence: int) -> int:
        """Begin a sentence."""
        if not self._free:
            self._grow()
        row = self._free.pop()
        self._key_of[row] = self.keys[sequence]
        for array, fresh in zip(self._states, self._fresh, strict=True):
            array[row] = fresh[0]
        return row

    def stop(self, name: int) -> None:
        """Forget a sentence."""
        self._free.append(name)

    def _grow(self) -> None:
        n = len(self._key_of)
        more = self.constraint.start_many(n)
        self._states = States(
            *(np.concatenate(pair) for pair in zip(self._states, more, strict=True))
        )
        self._key_of = np.append(self._key_of, np.zeros(n, np.uint64))
        self._free = list(range(n, 2 * n))

    def draw(
        self,
        names: Sequence[int],
        written: Sequence[Sequence[int]],
        logits: torch.Tensor,
        rows: Sequence[int],
    ) -> np.ndarray:
        """Return the next token id of each sentence; see `Stepper.draw`."""
        import torch

        from c2s.decoding import step_kernels

        at = np.array(names, dtype=np.int64)
        tokens = self.constraint.tokens
        new = [w[n:] for w, n in zip(written, self._states.n_tokens[at], strict=True)]
        starts = np.cumsum([0, *map(len, new)])
        columns = np.searchsorted(tokens, np.array([t for w in new for t in w], dtype=np.int64))
        step_kernels.catch_up(self.constraint.arrays, self._states, at, starts, columns)

        device = logits.device
        which = torch.as_tensor(rows, device=device)[:, None]
        wanted = logits[which, torch.from_numpy(tokens).to(device)].float().cpu().numpy()
        drawn = np.empty(len(at), np.int64)
        sampling = self.sampling
        step_kernels.draw(
            self.constraint.arrays, self._states, at, self._key_of[at], wanted, self._temperatures,
            int(sampling.top_k), float(sampling.top_p), drawn,
        )  # fmt: skip
        return np.where(drawn < 0, self.stop_token, tokens[drawn])


class StateStepper:
    """Draws answers of any constraint; parameters are those of `SentenceStepper`."""

    def __init__(
        self, constraint: Constraint, sampling: Sampling, keys: np.ndarray, stop_token: int
    ) -> None:
        self.constraint, self.sampling = constraint, sampling
        self.keys, self.stop_token = keys, stop_token
        self._open: dict[int, tuple[TokenState, list[int]]] = {}
        self._key_of: dict[int, np.ndarray] = {}
        self._names = 0

    def start(self, sequence: int) -> int:
        """Begin an answer."""
        self._names += 1
        self._open[self._names] = self.constraint.start(), []
        self._key_of[self._names] = self.keys[sequence : sequence + 1]
        return self._names

    def stop(self, name: int) -> None:
        """Forget an answer."""
        del self._open[name], self._key_of[name]

    def draw(
        self,
        names: Sequence[int],
        written: Sequence[Sequence[int]],
        logits: torch.Tensor,
        rows: Sequence[int],
    ) -> np.ndarray:
        """Return the next token id of each answer; see `Stepper.draw`."""
        import torch

        states = []
        for name, tokens in zip(names, written, strict=True):
            state, taken = self._open[name]
            for token in tokens[len(taken) :]:
                state.advance(token)
                taken.append(token)
            states.append(state)
        which = torch.as_tensor(rows, device=logits.device)
        drawn = draw_tokens(
            states, logits[which], self.sampling, np.concatenate([self._key_of[name] for name in names]),
            [len(tokens) for tokens in written], self.stop_token,
        )  # fmt: skip
        return np.asarray(drawn.cpu().numpy())


class AnswerStepper:
    """Writes given answers, whatever their probability.

    Parameters
    ----------
    answers
        Token ids of what each sequence is made to write.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self.answers = answers

    def start(self, sequence: int) -> int:
        """Begin an answer; its name is its number."""
        return sequence

    def stop(self, name: int) -> None:
        """Forget nothing, since nothing was remembered."""

    def draw(
        self,
        names: Sequence[int],
        written: Sequence[Sequence[int]],
        logits: torch.Tensor,
        rows: Sequence[int],
    ) -> np.ndarray:
        """Return the next token of each answer; see `Stepper.draw`."""
        pairs = zip(names, written, strict=True)
        return np.array([self.answers[name][len(w)] for name, w in pairs], dtype=np.int64)


def open_stepper(
    constraint: Constraint, sampling: Sampling, keys: np.ndarray, stop_token: int
) -> Stepper:
    """Return what draws answers of a constraint: compiled for cell sentences; parameters as `SentenceStepper`."""
    if isinstance(constraint, GeneSentence):
        return SentenceStepper(constraint, sampling, keys, stop_token)
    return StateStepper(constraint, sampling, keys, stop_token)
