"""Optimiser steps over packed samples, on the Hugging Face Trainer.

The Trainer does optimiser, schedule, precision, clipping, devices, several processes (accelerate), checkpoints and
trackers. What is ours: a step is a number of items of a stream, whatever the number of processes and however many
passes through the network they take; so the same recipe gives the same losses on one process or on several, packed
tightly or loosely.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from c2s.common.errors import C2SError, UsageError
from c2s.common.files import atomic_file
from c2s.common.transformers_log import quiet_transformers
from c2s.models.adapters import load_adapter_weights, save_adapter
from c2s.training.packed_network import PackedNetwork
from c2s.training.processes import is_sharded
from c2s.training.recipe import Learn
from c2s.training.samples import (
    PackedBatch,
    Reach,
    SampleStream,
    TokenSample,
    flatten,
    split_into_passes,
)
from c2s.training.speed import training_flops

#: Stands in a checkpoint that was written to its end.
COMPLETE = "complete.json"


class _Steps(IterableDataset[list[PackedBatch]]):
    """The passes of one optimiser step after another."""

    def __init__(
        self,
        stream: SampleStream,
        *,
        batch_size: int,
        learn: Learn,
        tokens_per_pass: int,
        context: int | None,
        first: int,
        rank: int,
        world_size: int,
        reach: Reach | None,
    ) -> None:
        super().__init__()
        self.stream, self.batch_size, self.learn = stream, batch_size, learn
        self.tokens_per_pass, self.context, self.first = tokens_per_pass, context, first
        self.rank, self.world_size, self.reach = rank, world_size, reach

    def __iter__(self) -> Iterator[list[PackedBatch]]:
        for samples in self.stream.steps(self.batch_size, self.first, self.rank, self.world_size):
            yield batches_of(
                samples,
                self.learn,
                self.tokens_per_pass,
                task_names=self.stream.task_names,
                context=self.context,
                reach=self.reach,
            )


def batches_of(
    samples: Sequence[TokenSample],
    learn: Learn,
    tokens_per_pass: int,
    *,
    task_names: Sequence[str],
    context: int | None,
    reach: Reach | None = None,
) -> list[PackedBatch]:
    """Return samples as packed batches of at most so many tokens each.

    Raises
    ------
    UsageError
        A sample is longer than the context.
    """
    passes = split_into_passes([len(s.ids) for s in samples], tokens_per_pass)
    return [
        flatten([samples[i] for i in p], learn, task_names=task_names, context=context, reach=reach)
        for p in passes
    ]


class PackedTrainer(Trainer):
    """The Trainer on packed samples.

    Parameters
    ----------
    packed
        The network with its loss; it attends packed.
    args
        `per_device_train_batch_size` and `gradient_accumulation_steps` say nothing here.
    stream
        What is trained on.
    batch_size
        Items of a step over all processes.
    learn
        What is learned of a sample.
    tokens_per_pass
        Tokens that go through the network at a time on one device, at most, where no sample is longer.
    validation
        Samples that the loss is measured on, and that are never trained on; the same on every process.
    measure
        Called after the losses were measured, on every process; its numbers stand beside them.
    workers
        1 makes the samples in a process of their own, which reads ahead; 0 in this one.
    reach
        Of a network whose prompts are not read causally (`PackedNetwork`'s `attention`).

    Attributes
    ----------
    tokens, samples : int
        Seen since the start of this process, over all processes.
    before : dict of str to float
        Tokens, samples and seconds of the run before it.
    """

    def __init__(
        self,
        packed: PackedNetwork,
        args: TrainingArguments,
        stream: SampleStream,
        *,
        batch_size: int,
        learn: Learn,
        tokens_per_pass: int,
        validation: Sequence[TokenSample] = (),
        measure: Any = None,
        workers: int = 0,
        keep_checkpoints: int = 2,
        reach: Reach | None = None,
        **kwargs: Any,
    ) -> None:
        # The Trainer wants to see validation data where it is to measure any; `evaluate` reads what was dealt out.
        super().__init__(model=packed, args=args, eval_dataset=list(validation) or None, **kwargs)
        if batch_size % args.world_size:
            raise UsageError(
                f"batch_size {batch_size:,} cannot be shared out evenly to {args.world_size:,} processes; give a "
                "multiple of it"
            )
        if args.n_gpu > 1:
            raise UsageError(
                "several GPUs need a process each; start with accelerate launch, or set CUDA_VISIBLE_DEVICES=0"
            )
        self.packed, self.stream, self.learn = packed, stream, learn
        self.batch_size, self.tokens_per_pass = batch_size, tokens_per_pass
        self.workers, self.measure, self.keep_checkpoints = workers, measure, keep_checkpoints
        self.reach = reach
        self.context: int | None = getattr(packed.config, "max_position_embeddings", None)
        self.task_names = tuple(stream.task_names)
        self.validation = (
            self._deal(
                batches_of(
                    validation,
                    learn,
                    tokens_per_pass,
                    task_names=self.task_names,
                    context=self.context,
                    reach=reach,
                )
            )
            if len(validation)
            else []
        )
        self.tokens = self.samples = 0
        self.before: dict[str, float] = {"tokens": 0, "samples": 0, "seconds": 0.0}
        self.first_step, self.began = 0, time.perf_counter()
        self._seen = torch.zeros(2, len(self.task_names) + 1, dtype=torch.float64)

    def create_accelerator_and_postprocess(self) -> None:
        """Set up several processes (called by the Trainer)."""
        super().create_accelerator_and_postprocess()
        if not is_sharded():
            return
        from accelerate.utils import (
            DistributedType,
            FullyShardedDataParallelPlugin,
        )
        from torch.distributed.fsdp import MixedPrecisionPolicy

        state: Any = self.accelerator.state
        if not self.is_fsdp_enabled:
            # accelerate divides models on GPUs only, though PyTorch does so on CPUs as well.
            state.distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
            self.is_fsdp_enabled: bool = True
        if self.args.bf16:
            # Gradients of many processes are added up in full precision.
            state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )

    # --- data ---------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the steps of this process, from the one that follows the checkpoint (called by the Trainer)."""
        steps = _Steps(
            self.stream, batch_size=self.batch_size, learn=self.learn, tokens_per_pass=self.tokens_per_pass,
            context=self.context, first=self.first_step, rank=self.args.process_index, world_size=self.args.world_size,
            reach=self.reach,
        )  # fmt: skip
        # With a generator of its own: a run that goes on shall find the dropout's where it was.
        return DataLoader(
            steps, batch_size=None, num_workers=self.workers, generator=torch.Generator()
        )

    def _deal(self, batches: list[PackedBatch]) -> list[PackedBatch]:
        """Return every process's share of batches, equally many for each: those that fill up weigh nothing."""
        world, mine = self.args.world_size, self.args.process_index
        rounds = -(-len(batches) // world)
        own = batches[mine::world]
        self._n_own = len(own)  # the others fill up
        return own + [batches[0]] * (rounds - len(own))

    # --- steps --------------------------------------------------------------------------------

    def training_step(
        self, model: Any, inputs: list[PackedBatch], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Go through a step's passes and leave their gradients (called by the Trainer)."""
        del num_items_in_batch
        model.train()
        total, n_passes, tokens, samples = self._over_processes(inputs)
        self.tokens, self.samples = self.tokens + tokens, self.samples + samples
        loss = torch.zeros((), device=self.args.device)
        for k in range(n_passes):
            # Every process makes as many passes, since FSDP gathers weights in each; one too many weighs nothing.
            spare = k >= len(inputs)
            batch = inputs[-1 if spare else k].to(self.args.device)
            last = k == n_passes - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.accelerator.autocast():
                    part, by_sample = model(batch, math.inf if spare else total)
                # Processes average their gradients; the weights are those of all of them.
                self.accelerator.backward(part * self.args.world_size)
            if not spare:
                loss += part.detach() * self.args.world_size
                self._note(batch, by_sample)
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip the gradients; return their norm before that (called by the Trainer)."""
        if self.args.device.type != "cpu":
            return super()._clip_grad_norm(model)
        # PyTorch adds up squares on the CPU in float32 one after another: off by 2e-4 for a table of 500 rows, and by
        # something else for its parts on two processes.
        parts = [p.grad for p in model.parameters() if p.grad is not None]
        squares = torch.zeros((), dtype=torch.float64)
        for part in parts:
            own = part.to_local() if isinstance(part, DTensor) else part
            squares += torch.linalg.vector_norm(own, dtype=torch.float64) ** 2
        if self.is_fsdp_enabled:
            squares = self.accelerator.reduce(squares, "sum")
        norm = squares.sqrt().float()
        factor = (self.args.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for part in parts:
            (part.to_local() if isinstance(part, DTensor) else part).mul_(factor)
        return norm

    def _over_processes(self, batches: Sequence[PackedBatch]) -> tuple[float, int, int, int]:
        """Return the weight, passes, tokens and samples of a step: sums over processes, of passes the most."""
        own = [
            sum(self.packed.total_weight(b) for b in batches),
            float(len(batches)),
            float(sum(b.ids.numel() for b in batches)),
            float(sum(len(b.lengths) for b in batches)),
        ]
        if self.args.world_size == 1:
            return own[0], int(own[1]), int(own[2]), int(own[3])
        mine = torch.tensor([own], dtype=torch.float64, device=self.args.device)
        everybody = self.accelerator.gather(mine).cpu()
        sums = everybody.sum(0).tolist()
        return sums[0], int(everybody[:, 1].max()), int(sums[2]), int(sums[3])

    def _note(self, batch: PackedBatch, by_sample: torch.Tensor) -> None:
        """Add the losses of samples to those of their tasks."""
        each = by_sample.detach().cpu().double()  # Apple's GPUs have no float64
        at = batch.tasks % (len(self.task_names) + 1)  # −1, not known, is the last
        self._seen[0].index_add_(0, at, each)
        self._seen[1].index_add_(0, at, torch.ones_like(each))

    def _seen_by_all(self) -> torch.Tensor:
        """Return the sums of losses by task and their numbers, over all processes."""
        if self.args.world_size == 1:
            return self._seen
        total: torch.Tensor = self.accelerator.reduce(self._seen.to(self.args.device), "sum").cpu()
        return total

    @property
    def done(self) -> dict[str, int]:
        """Tokens and samples that were trained on, also before this process went on with the run."""
        return {
            "tokens": int(self.before["tokens"]) + self.tokens,
            "samples": int(self.before["samples"]) + self.samples,
        }

    def _means(self, seen: torch.Tensor) -> dict[str, float]:
        """Return the mean loss of each task that has any."""
        names = [*self.task_names, "unknown"]
        return {n: s / c for n, s, c in zip(names, *seen.tolist(), strict=True) if c}

    def _check_finite(self, means: dict[str, float]) -> None:
        """Refuse to go on with a loss that is no longer a number."""
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise C2SError(
                    f"the loss of {name!r} is {mean} at step {self.state.global_step:,}; lower the learning rate"
                )

    def take_losses(self) -> dict[str, float]:
        """Return the mean loss of the samples of each task since the last call, over all processes, in nats.

        Raises
        ------
        C2SError
            A loss is no longer a number.
        """
        means = self._means(self._seen_by_all())
        self._seen.zero_()
        self._check_finite(means)
        return means

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Measure the losses of the validation samples by task, and what `measure` measures (called by the Trainer)."""
        training = self.take_losses()
        model = self.model_wrapped
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for k, batch in enumerate(self.validation):
                _, by_sample = model(batch.to(self.args.device), 1.0)
                if k < self._n_own:
                    self._note(batch, by_sample)
        losses = self.take_losses()
        metrics = {f"{metric_key_prefix}_loss_{t}": v for t, v in losses.items()}
        if losses:
            metrics[f"{metric_key_prefix}_loss"] = float(np.mean(list(losses.values())))
        if self.measure is not None:
            metrics |= {f"{metric_key_prefix}_{k}": v for k, v in self.measure().items()}
        model.train()
        self.log({**{f"loss_{t}": v for t, v in training.items()}, **metrics})
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def floating_point_ops(self, inputs: list[PackedBatch]) -> int:
        """Return the operations that a step on this process needs (called by the Trainer)."""
        return round(
            training_flops(
                self.packed.network,
                tokens=sum(b.ids.numel() for b in inputs),
                learned=sum(int(b.n_learned.sum()) for b in inputs),
                pairs=sum(int((b.lengths**2).sum()) for b in inputs),
            )
        )

    # --- checkpoints --------------------------------------------------------------------------
    #
    # A checkpoint is the same files whatever the number of processes, and whether or not they divide the model: whole
    # weights as `save_pretrained` writes them, and the optimiser's state as one process has it.

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log the loss up to a checkpoint before it is written, so that a resumed run logs the same ones."""
        self.control.should_log |= self.control.should_save
        # The Trainer counts from where it went on.
        self.state.epoch = self.state.global_step / self.args.max_steps
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, mark it as complete, and only then remove older ones; none of weights that are lost."""
        self._check_finite(self._means(self._seen_by_all()))
        folder = Path(self.args.output_dir)
        newest = folder / f"checkpoint-{self.state.global_step}"
        super()._save_checkpoint(model, trial)
        seen = self._seen_by_all().tolist()
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        seconds = self.before["seconds"] + time.perf_counter() - self.began
        noted = {"step": self.state.global_step, "seen": seen, **self.done, "seconds": seconds}
        with atomic_file(newest / COMPLETE) as path:
            path.write_text(json.dumps(noted), "utf-8")
        best = self.state.best_model_checkpoint
        spared = {newest.name} | ({Path(best).name} if best else set())
        remove_older(folder, spared, self.keep_checkpoints)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights as `save_pretrained` does, adapters as adapters (called by the Trainer)."""
        del _internal_call
        weights = self.whole_weights()
        if self.args.should_save:
            save_weights(self.packed.network, Path(output_dir or self.args.output_dir), weights)

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """Gather the weights that processes have divided among them; every process must ask.

        Returns
        -------
        dict or None
            The weights on the CPU, on the first process; empty on others. None where nothing is divided.
        """
        if not self.is_fsdp_enabled:
            return None
        found: dict[str, torch.Tensor] = {}
        known: dict[int, torch.Tensor] = {}
        for name, weight in self.packed.network.state_dict(keep_vars=True).items():
            # Weights that are tied stay one tensor, which is written once.
            if id(weight) not in known:
                known[id(weight)] = _whole(weight.detach(), self.args.should_save)
            if self.args.should_save:
                found[name] = known[id(weight)]
        return found

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write optimiser and schedule (called by the Trainer)."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state: dict[str, Any] = self.optimizer.state_dict()
        state["state"] = {
            k: {n: _whole(v, self.args.should_save) for n, v in values.items()}
            for k, values in state["state"].items()
        }
        if self.args.should_save:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore optimiser and schedule (called by the Trainer)."""
        if checkpoint is None or not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        state = torch.load(folder / "optimizer.pt", "cpu", weights_only=True, mmap=True)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for k, values in state["state"].items():
            weight = parameters[k]
            # Moments are divided as their weights are; the number of steps is one number.
            state["state"][k] = {
                n: _divided(v, weight) if v.shape == weight.shape else v for n, v in values.items()
            }
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore the weights (called by the Trainer)."""
        load_weights(self.packed.network, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Leave the last weights in place (called by the Trainer): whoever wants the best reads their checkpoint."""

    def resume_from(self, checkpoint: Path | None) -> bool:
        """Set the place in the stream that belongs to a checkpoint.

        Returns
        -------
        bool
            Whether there are steps left. Where there are none, weights and state are those of the checkpoint.
        """
        self.began = time.perf_counter()
        if checkpoint is None:
            return True
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self.first_step = state.global_step
        noted = json.loads((checkpoint / COMPLETE).read_text("utf-8"))
        self.before = {name: noted.get(name, 0) for name in self.before}
        if self.args.process_index == 0:
            # The first has the losses of all since the last measurement.
            self._seen = torch.tensor(noted["seen"], dtype=torch.float64)
        control = state.stateful_callbacks.get("TrainerControl", {})
        stopped = control.get("args", {}).get("should_training_stop", False)
        if self.first_step < self.args.max_steps and not stopped:
            return True
        load_weights(self.packed.network, checkpoint)
        self.state = state
        return False


def _whole(tensor: Any, wanted: bool) -> Any:
    """Return a tensor that processes have divided as a whole on the CPU; every process must ask, not all need it."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if wanted else whole.new_empty(0)


def _divided(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor, divided as another is; the whole where that one is not divided."""
    if not isinstance(like, DTensor):
        return whole
    # Every process has the whole and takes its part, without asking the first.
    return distribute_tensor(
        whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def save_weights(
    network: Any, folder: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write the weights of a network as `save_pretrained` does, an adapter as an adapter.

    Parameters
    ----------
    network
        With an adapter, the network of PEFT.
    folder
        Gets them.
    weights
        Instead of the network's own, which may be divided among processes.
    """
    with quiet_transformers():
        if hasattr(network, "get_base_model"):
            save_adapter(network, folder, weights)
        else:
            # Under the names that the network gives them, so that they can be given back one by one.
            network.save_pretrained(folder, state_dict=weights, save_original_format=False)


def load_weights(network: Any, folder: Path) -> None:
    """Give a network the weights, or the adapter, that `save_pretrained` wrote.

    Raises
    ------
    C2SError
        They do not fit.
    """
    if hasattr(network, "get_base_model"):
        load_adapter_weights(network, folder)
        return
    own = network.state_dict()
    state = {k: _divided(v, own.get(k, v)) for k, v in read_weights(folder)}
    found = network.load_state_dict(state, strict=False)
    network.tie_weights()
    tied = set(getattr(network, "all_tied_weights_keys", None) or ())
    missing = [k for k in found.missing_keys if k not in tied]
    if missing or found.unexpected_keys:
        odd = [*missing, *found.unexpected_keys][0]
        raise C2SError(f"{folder}: the checkpoint does not fit the model ({odd}); start anew")


def read_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that `save_pretrained` wrote, one after another, on the CPU."""
    from safetensors import safe_open

    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                yield name, file.get_tensor(name)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; what is left if that is broken off counts as none."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def remove_older(folder: Path, spared: Collection[str], keep: int) -> None:
    """Remove the oldest checkpoints of a folder, so that `keep` are left, the newest among them.

    Parameters
    ----------
    folder
        Of the checkpoints.
    spared
        Names of those that stay: the newest, and the best where one is.
    keep
        Checkpoints that are kept, beside the best.
    """
    old = [c for c in complete_checkpoints(folder) if c.name not in spared]
    for checkpoint in old[: max(0, len(old) + 1 - keep)]:
        remove_checkpoint(checkpoint)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder that were written to their end, the oldest first."""
    found = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))
