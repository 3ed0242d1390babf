"""The log of a run: what the Trainer measures, a line of JSON each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from c2s.common.files import atomic_file, json_able
from c2s.common.progress import say_beside

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from c2s.training.grpo.trainer import GroupTrainer
    from c2s.training.loop import PackedTrainer


class RunLog(TrainerCallback):
    """Writes what the Trainer logs to `log.jsonl`, and moves the progress bar.

    Parameters
    ----------
    path
        The file; lines behind the step that a run goes on from are dropped, and all where it begins anew.
    progress
        Told of each finished step.
    first
        The step that the run goes on from.
    rate
        Floating-point operations a second of matrix products on this device, which the run's are divided by.
    """

    def __init__(
        self, path: Path, progress: Callable[[int], None], first: int, rate: float
    ) -> None:
        self.path, self.progress, self.first, self.rate = path, progress, first, rate
        self.trainer: PackedTrainer | GroupTrainer | None = None
        self.first_flops = 0.0
        self.started = time.perf_counter()
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if first and _step(line) <= first]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), "utf-8")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Note what was done before, in a run that goes on."""
        self.started, self.first_flops = time.perf_counter(), state.total_flos

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move the progress bar."""
        if self.trainer is not None:
            seconds = max(time.perf_counter() - self.started, 1e-9)
            speed = f"{self.trainer.tokens / seconds:,.0f} tokens/s"
            say_beside(self.progress, speed)
        self.progress(1)

    def utilisation(self, state: TrainerState, seconds: float) -> float | None:
        """Return the operations that the model needed, as a share of what all devices could have done."""
        trainer = self.trainer
        if trainer is None or not self.rate:
            return None
        done = state.total_flos - self.first_flops
        return round(done / max(seconds, 1e-9) / (self.rate * trainer.args.world_size), 4)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write a line."""
        if not state.is_world_process_zero or self.trainer is None:
            return
        seconds = time.perf_counter() - self.started
        done = state.global_step - self.first
        facts = {
            "step": state.global_step,
            "seconds": round(seconds, 3),
            "tokens": self.trainer.tokens,
            "tokens_per_second": round(self.trainer.tokens / max(seconds, 1e-9), 1),
            "flop_utilisation": self.utilisation(state, seconds),
            "seconds_left": round(
                seconds / max(done, 1) * (state.max_steps - state.global_step), 1
            ),
        }
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(json_able({**facts, **(logs or {})})) + "\n")


def _step(line: str) -> float:
    """Return the step of a line of the log; a line that was cut short belongs to none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
