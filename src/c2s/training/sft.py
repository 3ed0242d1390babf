"""Supervised training on cells in memory, thin over the Hugging Face Trainer.

The Trainer does optimiser, schedule, precision, clipping and devices. What is ours: examples drawn from
ranks (`c2s.corpus.online`), a loss on the response only, computed only where it counts, and every example
weighing the same, so that a label of two tokens is not drowned by a sentence of a hundred.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from c2s.common.config import Config
from c2s.common.errors import C2SError, UsageError
from c2s.corpus.online import OnlineExamples
from c2s.models.directory import Model, resolve_device
from c2s.tasks.base import Example
from c2s.tokens.tokenizer import CellTokenizer
from c2s.training.optimizers import MuonWithAdamW

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

#: Label of tokens that are not trained on, as in Hugging Face and PyTorch.
IGNORE = -100


class Optimisation(Config):
    """How long and how fast to train. The paper publishes none of these for training from random weights."""

    steps: int = Field(ge=1, description="Optimiser steps.")
    batch_size: int = Field(32, ge=1, description="Examples a step.")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="'adamw', as in the paper, or 'muon': Muon for matrices of hidden layers, AdamW for the rest.",
    )
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate of AdamW.")
    muon_learning_rate: float = Field(0.02, gt=0, description="Peak learning rate of Muon.")
    warmup: float = Field(
        0.03,
        ge=0,
        lt=1,
        description="Share of the steps over which the learning rate rises (SPEC §5).",
    )
    weight_decay: float = Field(0.1, ge=0, description="AdamW weight decay (SPEC §5).")
    beta2: float = Field(0.95, gt=0, lt=1, description="AdamW β2 (SPEC §5).")
    clip: float = Field(1.0, gt=0, description="Largest gradient norm (SPEC §5).")
    bf16: bool = Field(False, description="Compute in bfloat16, keep weights in float32.")
    eval_every: int = Field(
        200, ge=1, description="Steps between measurements on validation examples."
    )


@dataclass
class TrainingLog:
    """What happened: losses in nats, `[{step, loss, task, split}]`, and how long it took."""

    losses: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


class _Examples(torch.utils.data.Dataset):
    """Positions of a stream as a data set; the work is done for a whole batch at once."""

    def __init__(self, stream: OnlineExamples) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, position: int) -> Example:
        return self.stream.draw([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Example]:
        return self.stream.draw(positions)


class Collator:
    """Makes padded tensors of examples: prompt, response, end of text; nothing is cut.

    Parameters
    ----------
    tokenizer
        Encodes the segments.
    task_ids
        Number the tasks, for losses by task.
    context
        Longest input of the model in tokens; None for no limit.
    """

    def __init__(
        self, tokenizer: CellTokenizer, task_ids: Sequence[str], context: int | None
    ) -> None:
        self.tokenizer, self.context = tokenizer, context
        self.task_number = {task: i for i, task in enumerate(task_ids)}

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask`, `labels` (batch, length) and `task` (batch,).

        Raises
        ------
        UsageError
            An example is longer than the context.
        """
        encoded = [
            (self.tokenizer.encode(e.prompt), self.tokenizer.encode(e.response)) for e in examples
        ]
        length = max(len(p) + len(r) + 1 for p, r in encoded)
        if self.context is not None and length > self.context:
            raise UsageError(
                f"an example takes {length:,} tokens, the model's context is {self.context:,}; use a smaller top_k"
            )
        ids = np.full((len(encoded), length), self.tokenizer.pad_id, dtype=np.int64)
        labels = np.full((len(encoded), length), IGNORE, dtype=np.int64)
        mask = np.zeros((len(encoded), length), dtype=np.int64)
        for row, (prompt, response) in enumerate(encoded):
            start, end = len(prompt), len(prompt) + len(response)
            ids[row, :start], ids[row, start:end], ids[row, end] = (
                prompt,
                response,
                self.tokenizer.eos_id,
            )
            labels[row, start : end + 1] = ids[row, start : end + 1]
            mask[row, : end + 1] = 1
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
            "task": torch.tensor([self.task_number[e.task] for e in examples]),
        }


def response_loss(network: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean negative log-likelihood of each example's response tokens, in nats. Shape (batch,).

    Only positions before a response token go through the output head: for a label that is a few of a
    hundred, and the head is most of a small model's arithmetic.
    """
    hidden = network.base_model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state  # (batch, length, hidden)
    targets = inputs["labels"][:, 1:]  # (batch, length - 1)
    counted = targets != IGNORE
    logits = network.get_output_embeddings()(
        hidden[:, :-1][counted]
    ).float()  # (n_counted, vocabulary)
    cap = getattr(network.config, "final_logit_softcapping", None)
    if cap is not None:  # Gemma-2
        logits = cap * torch.tanh(logits / cap)
    losses = functional.cross_entropy(logits, targets[counted], reduction="none")
    row = counted.nonzero()[:, 0]
    total = losses.new_zeros(len(targets)).index_add(0, row, losses)
    return total / counted.sum(1)


class SentenceTrainer(Trainer):
    """The Hugging Face Trainer with `response_loss`, averaged over examples, and losses by task."""

    def __init__(self, *args: Any, task_ids: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.task_ids = list(task_ids)
        self.seen: dict[str, list[float]] = defaultdict(list)
        # Our loss is a mean over the batch already; the Trainer divides by accumulation steps itself.
        self.loss_is_scaled_for_ga = False

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        """Return the loss of a batch (called by the Trainer)."""
        # The network's own forward is not called, so its precision is set here.
        with self.accelerator.autocast():
            each = response_loss(self.accelerator.unwrap_model(model), inputs)
        for number, loss in zip(inputs["task"].tolist(), each.detach().tolist(), strict=True):
            self.seen[self.task_ids[number]].append(loss)
        loss = each.mean()
        return (loss, {"loss": each.detach()}) if return_outputs else loss

    def take_seen(self) -> dict[str, float]:
        """Return the mean loss by task since the last call."""
        means = {task: float(np.mean(v)) for task, v in sorted(self.seen.items()) if v}
        self.seen.clear()
        return means


class _Recorder(TrainerCallback):
    """Writes losses to the log, measures validation examples, and moves the progress bar."""

    def __init__(
        self,
        log: TrainingLog,
        validation: list[dict[str, torch.Tensor]],
        every: int,
        progress: Callable[[int], None],
    ) -> None:
        self.log, self.validation, self.every, self.progress = log, validation, every, progress
        self.trainer: SentenceTrainer | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.progress(1)
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.record(state.global_step)

    def record(self, step: int) -> None:
        trainer = self.trainer
        assert trainer is not None
        for task, loss in trainer.take_seen().items():
            if not math.isfinite(loss):
                raise C2SError(
                    f"the training loss of {task!r} is {loss} at step {step}; lower the learning rate"
                )
            self.log.losses.append({"step": step, "loss": loss, "task": task, "split": "train"})
        network = trainer.model
        network.eval()
        with torch.no_grad():
            for batch in self.validation:
                trainer.compute_loss(network, {k: v.to(network.device) for k, v in batch.items()})
        network.train()
        for task, loss in trainer.take_seen().items():
            self.log.losses.append({"step": step, "loss": loss, "task": task, "split": "val"})


def train(
    model: Model,
    stream: OnlineExamples,
    optimisation: Optimisation,
    *,
    validation: OnlineExamples | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> TrainingLog:
    """Train a model on a stream of examples; the model is changed in place.

    Parameters
    ----------
    model
        Starts where it is: random weights, or a model that was trained before.
    stream
        At least `steps · batch_size` examples.
    optimisation
        Steps, batch, learning rate.
    validation
        Examples that are measured every `eval_every` steps and never trained on.
    seed
        Of the Trainer; the examples have their own.
    device
        "cpu" keeps off a GPU; by default the best there is.
    progress
        Told of each finished step.

    Returns
    -------
    TrainingLog

    Raises
    ------
    UsageError
        The stream is too short, or an example does not fit into the context.
    C2SError
        The loss is no longer a number.
    """
    needed = optimisation.steps * optimisation.batch_size
    if len(stream) < needed:
        raise UsageError(
            f"{optimisation.steps:,} steps of {optimisation.batch_size} need {needed:,} "
            f"examples, the stream has {len(stream):,}"
        )
    task_ids = stream.task_ids
    collate = Collator(
        model.tokenizer, task_ids, getattr(model.network.config, "max_position_embeddings", None)
    )
    batches = []
    if validation is not None:
        at = np.arange(len(validation))
        batches = [collate(validation.draw(rows)) for rows in np.array_split(at, -(-len(at) // 64))]
    log = TrainingLog()
    recorder = _Recorder(log, batches, optimisation.eval_every, progress)
    with tempfile.TemporaryDirectory(prefix="c2s-train-") as scratch:
        trainer = SentenceTrainer(
            model=model.network,
            args=_arguments(optimisation, seed, scratch, device),
            train_dataset=_Examples(stream),
            data_collator=collate,
            callbacks=[recorder],
            optimizers=(_optimizer(model.network, optimisation), None),
            task_ids=task_ids,
        )
        trainer.remove_callback(PrinterCallback)
        if trainer.args.world_size > 1 or trainer.args.n_gpu > 1:
            raise UsageError(
                "training runs on one process and one GPU; start it without a launcher and set CUDA_VISIBLE_DEVICES=0"
            )
        recorder.trainer = trainer
        started = time.perf_counter()
        trainer.train()
    log.seconds = time.perf_counter() - started
    model.network.eval()
    return log


def _optimizer(network: Any, optimisation: Optimisation) -> torch.optim.Optimizer | None:
    """Return the optimiser, or None for the Trainer's own AdamW."""
    if optimisation.optimizer == "adamw":
        return None
    return MuonWithAdamW(
        network,
        muon_lr=optimisation.muon_learning_rate,
        lr=optimisation.learning_rate,
        betas=(0.9, optimisation.beta2),
        weight_decay=optimisation.weight_decay,
    )


def _arguments(
    optimisation: Optimisation, seed: int, scratch: str, device: str | None
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=scratch,
        max_steps=optimisation.steps,
        per_device_train_batch_size=optimisation.batch_size,
        learning_rate=optimisation.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.02},
        warmup_steps=round(optimisation.warmup * optimisation.steps),
        weight_decay=optimisation.weight_decay,
        adam_beta1=0.9,
        adam_beta2=optimisation.beta2,
        max_grad_norm=optimisation.clip,
        bf16=optimisation.bf16,
        seed=seed,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        use_cpu=resolve_device(device) == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
