"""TRL's trainer for groups, on constrained answers: what they are drawn from and what is learned is one distribution.

TRL keeps what it does well: losses and their variants, advantages, the divergence from the reference, several
processes. Ours are the rollouts, the log-probabilities, the rewards of whole groups, and checkpoints that a run goes
on from.
"""

from __future__ import annotations

import copy
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerControl, TrainerState

from c2s.common.errors import C2SError, UsageError
from c2s.common.files import atomic_file
from c2s.common.seeds import generator
from c2s.models.directory import Model
from c2s.training.grpo.policy import add_policy_head, allowed_divergence, log_probabilities_of
from c2s.training.grpo.questions import Questions
from c2s.training.loop import COMPLETE, load_weights, remove_older, save_weights
from c2s.training.rewards.base import OpenedReward, Rollouts

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func; its version is pinned

from trl import GRPOConfig, GRPOTrainer

#: What TRL logs that says nothing here: answers under a constraint end where it says, mostly without a token; and
#: extremes of a pass, as means over the passes of a step, depend on how answers are divided into passes.
_SILENT = (
    "completions/clipped_ratio", "completions/mean_terminated_length", "completions/min_terminated_length",
    "completions/max_terminated_length", "clip_ratio/low_min", "clip_ratio/high_max",
)  # fmt: skip


class GroupTrainer(GRPOTrainer):
    """GRPO on constrained answers.

    Parameters
    ----------
    model
        What is trained, which is also the reference: a copy is kept where it has no adapter.
    args
        Settings of TRL; `beta` among them.
    questions
        What is asked.
    rewards
        What is rewarded; each sees whole groups.
    n_questions
        Questions of the run.
    watch
        Called with the rollouts of a logging step; its numbers stand in the log.
    measure
        Called every so many steps (`args.eval_steps`), on every process; its numbers stand in the log.
    beta_allowed
        What the divergence in how probable all that is allowed is weighs in the loss (`PolicyRecipe.beta_allowed`).
    keep_checkpoints
        Checkpoints that are kept.

    Attributes
    ----------
    tokens : int
        Of answers that were drawn since the start of this process, over all processes.
    first_step : int
        The step that this process goes on from.
    before : dict of str to float
        Tokens and seconds of the run before it.
    """

    def __init__(
        self,
        model: Model,
        args: GRPOConfig,
        questions: Questions,
        rewards: Sequence[OpenedReward],
        n_questions: int,
        *,
        watch: Callable[[Rollouts], dict[str, float]] | None = None,
        measure: Callable[[], dict[str, float]] | None = None,
        beta_allowed: float = 0.0,
        keep_checkpoints: int = 2,
        callbacks: Sequence[Any] = (),
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        from datasets import Dataset

        self.questions, self.rewards, self.watch, self.measure = questions, rewards, watch, measure
        self.beta_allowed, self.keep_checkpoints = beta_allowed, keep_checkpoints
        self._log_allowed: torch.Tensor | None = None
        self.tokens = self.first_step = 0
        self.before: dict[str, float] = {"tokens": 0, "seconds": 0.0}
        self.began = time.perf_counter()
        beta, network = args.beta, model.adapted or model.network
        # TRL would read the reference from a folder, or copy the adapter; both are here already.
        args.beta = 0.0
        reference = None if beta == 0 or model.adapted is not None else copy.deepcopy(model.network)
        add_policy_head(model.network, args.temperature)
        super().__init__(
            model=network,
            reward_funcs=[_named(reward.name) for reward in rewards],
            args=args,
            # Prompts are numbers: what is asked is made when it is needed.
            train_dataset=Dataset.from_dict({"prompt": [str(n) for n in range(n_questions)]}),
            processing_class=model.tokenizer.backend,
            callbacks=list(callbacks),
            optimizers=(optimizer, None),
            rollout_func=lambda prompts, _: self._roll_out(prompts),
        )
        _without_dropout(model.network)
        self.beta = args.beta = beta
        if reference is not None:
            add_policy_head(reference, args.temperature)
            reference.requires_grad_(False)
            self.ref_model = self.accelerator.prepare_model(reference.eval(), evaluation_mode=True)

    # --- rollouts -----------------------------------------------------------------------------

    def _roll_out(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Draw the answers of this process (called by TRL)."""
        started = time.perf_counter()
        numbers = [int(p) for p in prompts]
        first = self.accelerator.process_index * len(numbers)
        # A group may lie on several processes; which of its answers each is depends on its place among all.
        copies = [(first + i) % self.num_generations for i in range(len(numbers))]
        # Drawn in the precision that is learned in, or the ratio would be of another policy.
        with _resting(self.model), self.accelerator.autocast():
            answers = self.questions.write(numbers, copies, self.temperature)
        self._note("time/rollout", time.perf_counter() - started)
        return {
            "prompt_ids": [self.questions.question(n).ids.tolist() for n in numbers],
            "completion_ids": [a.tolist() for a in answers],
            "logprobs": None,  # those of the constrained distribution are taken below
        }

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """Draw and reward the answers of this process (called by TRL)."""
        started = time.perf_counter()
        with warnings.catch_warnings():
            # TRL asks for recomputation of layers by the name that it had before transformers 5.23.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self._log_allowed is not None:
            output["ref_log_allowed"] = (
                self._log_allowed
            )  # the reference was the last that was asked
        self.tokens += int(self.accelerator.reduce(output["completion_mask"].sum()).item())
        self._note("time/drawn", time.perf_counter() - started)
        return output

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Return the answers of a pass; in an order that depends on the step alone, which TRL draws (called by it)."""
        at = generator(self.args.seed, "passes", self.state.global_step).integers(2**31)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(at))
            inputs: dict[str, Any] = super()._prepare_inputs(generation_batch)
        return inputs

    def _calculate_rewards(
        self,
        inputs: Any,
        prompts: list[str],
        completions: Any,
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        """Reward whole groups, which may lie on several processes. float32, shape (n_answers of all, n_rewards)."""
        from accelerate.utils import gather_object

        del inputs, completions
        started = time.perf_counter()
        numbers = gather_object([int(p) for p in prompts])
        answers = gather_object([np.array(ids, np.int32) for ids in completion_ids_list])
        rollouts = self.questions.read(numbers, answers)
        found = np.stack([reward.function(rollouts) for reward in self.rewards], axis=1)
        self._note("time/reward", time.perf_counter() - started)
        if self.watch is not None and (self.state.global_step + 1) % self.args.logging_steps == 0:
            started = time.perf_counter()
            for name, value in self.watch(rollouts).items():
                self._note(f"watch/{name}", value)
            self._note("time/watch", time.perf_counter() - started)
        return torch.tensor(found, dtype=torch.float32, device=self.accelerator.device)

    def _note(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(float(value))

    # --- log-probabilities --------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        if self.beta_allowed and self._log_allowed is not None:
            loss = loss + self._divergence_of_allowed(self._log_allowed, inputs)
            self._log_allowed = None
        if not torch.isfinite(loss):
            raise C2SError(
                f"step {self.state.global_step + 1:,}: the loss is no longer a number; use a lower "
                "optimisation.learning_rate, or float32"
            )
        return loss

    def _divergence_of_allowed(
        self, log_allowed: torch.Tensor, inputs: dict[str, Any]
    ) -> torch.Tensor:
        """Return what `beta_allowed` adds to the loss: a mean over the tokens of a pass.

        TRL divides its own terms by the passes of a step in the same way.
        """
        mask = inputs["completion_mask"]
        each = allowed_divergence(log_allowed, inputs["ref_log_allowed"])
        # shape (3,): sums over the tokens of all processes
        sums = torch.stack([
            (log_allowed.detach().exp() * mask).sum(), (each.detach() * mask).sum(), mask.sum().float()
        ])  # fmt: skip
        shares, divergence, n_tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        self._note("allowed", shares / max(n_tokens, 1))
        self._note("kl_allowed", divergence / max(n_tokens, 1))
        mean = (each * mask).sum() / mask.sum().clamp(min=1)
        return self.beta_allowed * mean / self.current_gradient_accumulation_steps

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int,
        batch_size: int | None = None, compute_entropy: bool = False, **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:  # fmt: skip
        """Return log p of each token of the answers among what was allowed, and entropies; see `policy`."""
        with self.accelerator.autocast():
            chosen, entropies, log_allowed = log_probabilities_of(
                model, input_ids, attention_mask, logits_to_keep, self.questions.constraint,
                batch_size or len(input_ids), unconstrained=self.beta_allowed > 0,
            )  # fmt: skip
        self._log_allowed = log_allowed
        return chosen, entropies if compute_entropy else None, None

    # --- log and measurements -----------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, without what says nothing here (called by the Trainer)."""
        for mode in self._metrics.values():
            for name in _SILENT:
                mode.pop(name, None)
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Measure what `measure` measures (called by the Trainer)."""
        metrics: dict[str, float] = {}
        if self.measure is not None:
            # In the precision that is learned in, as rollouts are.
            with _resting(self.model), self.accelerator.autocast():
                metrics = {f"{metric_key_prefix}_{k}": v for k, v in self.measure().items()}
        Trainer.log(self, dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @property
    def tokens_of_run(self) -> int:
        """Tokens of all answers of the run, also before this process went on with it."""
        return int(self.before["tokens"]) + self.tokens

    # --- checkpoints: as those of PackedTrainer -----------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, mark it as complete, and only then remove older ones."""
        folder = Path(self.args.output_dir)
        newest = folder / f"checkpoint-{self.state.global_step}"
        Trainer._save_checkpoint(self, model, trial)  # TRL's own writes a model card besides
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        seconds = self.before["seconds"] + time.perf_counter() - self.began
        noted = {"step": self.state.global_step, "tokens": self.tokens_of_run, "seconds": seconds}
        with atomic_file(newest / COMPLETE) as path:
            path.write_text(json.dumps(noted), "utf-8")
        remove_older(folder, {newest.name}, self.keep_checkpoints)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights as `save_pretrained` does, adapters as adapters (called by the Trainer)."""
        del _internal_call
        if self.args.should_save:
            network = self.accelerator.unwrap_model(self.model)
            save_weights(network, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore the weights (called by the Trainer)."""
        load_weights(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint))

    def resume_from(self, checkpoint: Path | None) -> bool:
        """Return whether there are steps left behind a checkpoint; where not, its weights are taken."""
        self.began = time.perf_counter()
        if checkpoint is None:
            return True
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self.first_step = state.global_step
        noted = json.loads((checkpoint / COMPLETE).read_text("utf-8"))
        self.before = {name: noted.get(name, 0) for name in self.before}
        if self.first_step < self.args.max_steps:
            return True
        load_weights(self.accelerator.unwrap_model(self.model), checkpoint)
        self.state = state
        return False


def _named(name: str) -> Callable[..., list[float]]:
    """Return what TRL takes the name of a reward from; rewards themselves see whole groups."""

    def reward(*_: Any, **__: Any) -> list[float]:
        raise UsageError("rewards are given to whole groups")

    reward.__name__ = name
    return reward


def _without_dropout(network: torch.nn.Module) -> None:
    """Have a network drop nothing in training: what is learned of must be what was drawn from.

    TRL does so for layers of dropout; attention keeps its share as a number.
    """
    for module in network.modules():
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


@contextmanager
def _resting(network: Any) -> Iterator[None]:
    """Have a network compute as it does when it is not trained."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
