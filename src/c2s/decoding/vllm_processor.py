"""The part of `VllmEngine` that vLLM calls: of the logits of each pass it leaves the one token that was drawn.

Imported where vLLM runs the network, in processes of its own; it needs vLLM.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from c2s.decoding.stepping import Stepper

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig


class _Request(NamedTuple):
    """One row of vLLM's batch: what draws it, its name there, and vLLM's own list of the tokens it has written."""

    stepper: Stepper
    name: int
    written: list[int]


class DrawnTokens(LogitsProcessor):
    """Leaves of each request's logits the token that its stepper draws.

    A request says in `extra_args={"c2s": [file, i]}` where its stepper lies, and which of the sequences it is. Requests
    that say nothing are left as they are.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._requests: dict[int, _Request] = {}
        self._steppers: dict[str, Stepper] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Accept all: requests come from `VllmEngine` only."""

    def is_argmax_invariant(self) -> bool:
        """Return False: it decides which token is taken."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow which request is in which row."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._forget(row)
        for row, params, _, written in batch_update.added:
            self._forget(row)
            asked: dict[str, Any] = params.extra_args or {}
            if "c2s" in asked:
                file, sequence = asked["c2s"]
                stepper = self._stepper(file)
                self._requests[row] = _Request(stepper, stepper.start(sequence), written)
        for row, to, direction in batch_update.moved:
            moved, replaced = self._requests.pop(row, None), self._requests.pop(to, None)
            if moved is not None:
                self._requests[to] = moved
            if replaced is not None:
                if direction == MoveDirectionality.SWAP:
                    self._requests[row] = replaced
                else:
                    replaced.stepper.stop(replaced.name)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Leave one finite number in each row."""
        by_stepper: dict[int, list[int]] = {}
        for row, request in self._requests.items():
            by_stepper.setdefault(id(request.stepper), []).append(row)
        for rows in by_stepper.values():
            requests = [self._requests[row] for row in rows]
            names, written = [r.name for r in requests], [r.written for r in requests]
            tokens = requests[0].stepper.draw(names, written, logits, rows)
            at = torch.as_tensor(rows, device=logits.device)
            logits[at] = -torch.inf
            logits[at, torch.from_numpy(tokens).to(logits.device)] = 0.0
        return logits

    def _stepper(self, file: str) -> Stepper:
        """Return what a file holds; forget those whose file is gone, since nobody can ask for them any more."""
        if file not in self._steppers:
            self._steppers = {f: s for f, s in self._steppers.items() if Path(f).is_file()}
            # Written a moment ago by the process that started this one, into a folder that only its user can enter.
            self._steppers[file] = pickle.loads(Path(file).read_bytes())
        return self._steppers[file]

    def _forget(self, row: int) -> None:
        request = self._requests.pop(row, None)
        if request is not None:
            request.stepper.stop(request.name)
