"""The engine on vLLM (extra `vllm`): many sequences in one batch that fills itself up, keys and values in pages.

vLLM runs the network and keeps the batch; what is drawn is decided here, by the constraint and the rule of drawing of
`TransformersEngine` (`stepping`), through a logits processor (`vllm_processor`). So both engines give the same answers
for the same seed, up to rounding.

vLLM runs in processes of its own: it changes classes of transformers, threads and random states where it runs. What
draws is given to them as a file, once for all sequences of a request.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.common.errors import C2SError, UsageError, missing_extra
from c2s.common.seeds import cell_keys
from c2s.constraints.answers import answer_trees, common_beginning
from c2s.constraints.trie import Constraint, TokenState
from c2s.decoding.engine import Progress, check_context
from c2s.decoding.prompt_attention import Begun
from c2s.decoding.sampling import Sampling
from c2s.decoding.stepping import AnswerStepper, Stepper, open_stepper

if TYPE_CHECKING:
    from c2s.models.directory import Model

#: What vLLM is told through the environment while it starts.
_ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the other one calls logits processors of another kind
    "VLLM_NO_USAGE_STATS": "1",  # nothing is sent anywhere
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "CRITICAL"),
}
#: The same on a processor, where compiling takes longer than most requests.
_NOT_COMPILED = "TORCHDYNAMO_DISABLE"
#: Sequences in a batch on a processor; elsewhere vLLM's own number.
_BATCH_CPU = 64
#: Most bytes of keys and values on a processor, and tokens of a page there: what a prompt shares is whole pages.
_CACHE_CPU, _PAGE_CPU = 4 << 30, 32
#: Prompts whose answers are scored together.
_SCORED_AT_ONCE = 64


class VllmEngine:
    """The engine on vLLM.

    Parameters
    ----------
    model
        Opened without its weights (`load_model(…, weights=False)`), or with them: then vLLM gets a copy of the network
        as it is now, and it is in memory twice.
    batch_size
        Sequences in a batch; by default 64 on a CPU, elsewhere what vLLM takes.

    Raises
    ------
    UsageError
        vLLM is not installed, `batch_size` is below 1, or the model reads its prompts not causally.
    """

    def __init__(self, model: Model, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is not possible; it is at least 1")
        if not model.card.attention.is_causal:
            raise UsageError(
                f"the vllm engine reads prompts causally, and this model does not (attention.kind = "
                f"{model.card.attention.kind} in c2s.json); use engine='transformers'"
            )
        if find_spec("vllm") is None:
            raise missing_extra("vllm", "vllm")
        self.stop_token = model.tokenizer.eos_id
        self.batch_size = batch_size
        self._scratch = TemporaryDirectory(prefix="c2s-vllm-")
        folder, dtype = _weights(model, Path(self._scratch.name) / "model")
        self._llm: Any = _open(folder, dtype, batch_size)
        self._runs = count()
        self.context = int(self._llm.llm_engine.model_config.max_model_len)

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        constraint: Constraint,
        sampling: Sampling,
        progress: Progress | None = None,
        begun: int = 0,
    ) -> list[TokenState]:
        """Draw an answer to each prompt, as `TransformersEngine.generate` does.

        Raises
        ------
        UsageError
            Prompt and answer do not fit into the model's context.
        C2SError
            The constraint lets the model's end of text stand inside an answer, which vLLM takes for its end.
        """
        check_context(self.context, max(map(len, prompts), default=0) + constraint.max_tokens)
        keys = cell_keys([str(i) for i in range(len(prompts))], sampling.seed)
        stepper = open_stepper(constraint, sampling, keys, self.stop_token)
        # A pass more than the answer is long: what is complete is told from its stop.
        lengths = [constraint.max_tokens + 1] * len(prompts)
        outputs = self._run(stepper, list(prompts), lengths, [self.stop_token], progress)
        return [_finished(constraint, output.token_ids) for output in outputs]

    def score(
        self,
        prompts: Sequence[np.ndarray],
        answers: Sequence[Sequence[int]],
        progress: Progress | None = None,
        *,
        begun: Begun = 0,
    ) -> np.ndarray:
        """Return the exact log-probability of every answer behind every prompt.

        vLLM is made to write each answer, and log p of each of its tokens is read. The first answer is written before
        the others, so that they find the prompt, and what all answers begin with, in the cache of pages.

        Returns
        -------
        float64 array, shape (n_prompts, n_answers)

        Raises
        ------
        UsageError
            Prompt and answer do not fit into the model's context.
        InputError
            Two answers have the same tokens, or one has none.
        """
        answer_trees(answers, len(answers))
        check_context(self.context, max(map(len, prompts), default=0) + max(map(len, answers)))
        ids = [np.array(answer, dtype=np.int64) for answer in answers]
        scores = np.empty((len(prompts), len(answers)))
        for start in range(0, len(prompts), _SCORED_AT_ONCE):
            part = prompts[start : start + _SCORED_AT_ONCE]
            scores[start : start + len(part)] = self._score(part, ids)
            if progress:
                progress(len(part))
        return scores

    def _score(self, prompts: Sequence[np.ndarray], answers: list[np.ndarray]) -> np.ndarray:
        first, *others = answers
        steps = np.array(self._read(list(prompts), [first] * len(prompts)))
        shared = common_beginning(answers)
        longer = [np.concatenate([prompt, first[:shared]]) for prompt in prompts]
        rest = self._read(
            [prompt for prompt in longer for _ in others],
            [answer[shared:] for _ in prompts for answer in others],
        )
        scores = np.empty((len(prompts), len(answers)))
        scores[:, 0] = steps.sum(1)
        totals = np.array([found.sum() for found in rest]).reshape(len(prompts), len(others))
        scores[:, 1:] = steps[:, :shared].sum(1)[:, None] + totals
        return scores

    def _read(self, prompts: list[np.ndarray], answers: list[np.ndarray]) -> list[np.ndarray]:
        """Return log p of the tokens of each prompt's answer."""
        lists = [answer.tolist() for answer in answers]
        outputs = self._run(
            AnswerStepper(lists), prompts, list(map(len, lists)), [], None, logprobs=0
        )
        return [
            np.array([at[token].logprob for at, token in zip(out.logprobs, answer, strict=True)])
            for out, answer in zip(outputs, lists, strict=True)
        ]

    def embed(
        self,
        prompts: Sequence[np.ndarray],
        progress: Progress | None = None,
        over: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """Refuse: vLLM gives hidden states only where it was opened for nothing else.

        Raises
        ------
        UsageError
            Always.
        """
        raise UsageError(
            "the vllm engine does not embed; use engine='transformers', which reads each prompt once as well"
        )

    def close(self) -> None:
        """End vLLM's processes, which gives back their memory. The engine cannot be used any more."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            self._scratch.cleanup()

    def _run(
        self,
        stepper: Stepper,
        prompts: list[np.ndarray],
        lengths: list[int],
        stop_tokens: list[int],
        progress: Progress | None,
        logprobs: int | None = None,
    ) -> list[Any]:
        """Return vLLM's output of what a stepper writes behind each prompt, at most so many tokens."""
        import cloudpickle  # comes with vLLM; takes a constraint that a script or a notebook defines, too
        from vllm import SamplingParams

        engine = self._llm.llm_engine
        file = Path(self._scratch.name) / f"stepper-{next(self._runs)}"
        file.write_bytes(cloudpickle.dumps(stepper))
        outputs: dict[str, Any] = {}
        names = [f"{file.name}-{i}" for i in range(len(prompts))]
        try:
            for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
                params = SamplingParams(
                    temperature=0, max_tokens=length, ignore_eos=True, stop_token_ids=stop_tokens,
                    detokenize=False, logprobs=logprobs, extra_args={"c2s": [str(file), i]},
                )  # fmt: skip
                engine.add_request(names[i], {"prompt_token_ids": prompt.tolist()}, params)
            while engine.has_unfinished_requests():
                for request in engine.step():
                    if request.finished:
                        outputs[request.request_id] = request.outputs[0]
                        if progress:
                            progress(1)
        finally:
            if open_ := [name for name in names if name not in outputs]:
                engine.abort_request(open_)  # stopped on the way, as by Ctrl-C
            file.unlink()
        return [outputs[name] for name in names]


def _finished(constraint: Constraint, tokens: Sequence[int]) -> TokenState:
    """Return the state of an answer that was written."""
    state = constraint.start()
    for token in tokens:
        if state.done:
            break
        state.advance(token)
    if not state.done:
        raise C2SError(
            "the answer holds the model's end of text before its own end; the vllm engine cannot write it, use"
            " engine='transformers'"
        )
    return state


def _weights(model: Model, copy: Path) -> tuple[Path, str]:
    """Return where vLLM finds a model's configuration and weights, and their type; a network is copied there."""
    if model.adapted is not None:
        raise UsageError(
            f"{model.source}: holds an adapter, which vLLM is not given; merge it with c2s model merge"
        )
    if model.has_network:
        from c2s.common.transformers_log import quiet_transformers

        with quiet_transformers():
            model.network.save_pretrained(copy)
        return copy, str(model.network.dtype).removeprefix("torch.")
    if model.files is None:
        raise UsageError(f"{model.source}: the model has neither a network nor files with weights")
    if model.files.dtype is not None:
        return model.files.folder, model.files.dtype
    # "auto" would turn float32 into float16.
    config = json.loads((model.files.folder / "config.json").read_text("utf-8"))
    return model.files.folder, config.get("dtype") or config.get("torch_dtype") or "float32"


def _open(folder: Path, dtype: str, batch_size: int | None) -> Any:
    """Start vLLM on a model folder."""
    with _environment():
        from vllm import LLM
        from vllm.platforms import current_platform

        options: dict[str, Any] = {"max_num_seqs": batch_size} if batch_size else {}
        if current_platform.is_cpu():
            batch_size = batch_size or _BATCH_CPU
            os.environ[_NOT_COMPILED] = "1"
            options = {
                "max_num_seqs": batch_size,
                "block_size": _PAGE_CPU,
                "enforce_eager": True,
                "kv_cache_memory_bytes": _cache_bytes(folder, dtype, batch_size),
            }
        try:
            return LLM(
                str(folder), dtype=dtype, skip_tokenizer_init=True, enable_prefix_caching=True,
                trust_remote_code=False, load_format="safetensors", generation_config="vllm",
                async_scheduling=False, logits_processors=["c2s.decoding.vllm_processor:DrawnTokens"], **options,
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise C2SError(
                f"vLLM did not start ({reason}); set VLLM_LOGGING_LEVEL=INFO to see what it says"
            ) from error


def _cache_bytes(folder: Path, dtype: str, batch_size: int) -> int:
    """Return room for the keys and values of a full batch, or as much as is allowed, but of one sequence at least."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    n_bytes = 4 if dtype == "float32" else 2
    pages = -(-config.max_position_embeddings // _PAGE_CPU) + 1
    sequence = 2 * config.num_hidden_layers * heads * width * n_bytes * pages * _PAGE_CPU
    return int(min(batch_size * sequence, max(_CACHE_CPU, 2 * sequence)))


@contextmanager
def _environment() -> Iterator[None]:
    """Set what vLLM and its processes see while they start.

    They do not import the script that is being run: it would start anew in each of them where it has no
    `if __name__ == "__main__"`, and vLLM on a CPU fails where numba is imported before it.
    """
    before = {name: os.environ.get(name) for name in (*_ENVIRONMENT, _NOT_COMPILED)}
    main = sys.modules["__main__"]
    names = ("__spec__", "__file__")
    hidden: dict[str, Any] = {name: vars(main).pop(name) for name in names if name in vars(main)}
    main.__spec__ = None
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        vars(main).update(hidden)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
