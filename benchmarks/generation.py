"""What the gene constraint and guesses inside genes cost and save, in one process.

    python benchmarks/generation.py --tokenizer .tokenizers/gpt-neox --json generation.json
    python benchmarks/generation.py --model trained/ --json generation.json

Cell sentences in "text" mode of all genes of the packaged pancreas data (20,125), on a GPT-NeoX of random weights
(hidden 256, 6 layers, tied head: 17.6 million parameters), or on a trained model directory. Measured are the look-up of
the allowed tokens (for one sentence from Python, and for a batch in the compiled code together with the draw), the
share of the constraint in generation, passes for each gene with and without guesses, and cells a second beside the loop
that there was before: a mask over the whole vocabulary, the whole output head, a token a pass (`write_token_by_token`).
With `--cells-per-sample` an answer is a sample of several cells (the task `mc_lm`).

Before anything is timed, the sentences with and without guesses are compared. In each round everything is run once, and
a ratio is taken within its round. Random weights say nothing about guesses: how many are right depends on the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code: 1 where guesses change what is written."""
    options = parse(arguments)
    import torch

    from ranking import machine

    torch.set_num_threads(options.threads)
    model, prompt = load(options)
    result: dict[str, Any] = {
        "machine": machine(),
        "options": {k: str(v) for k, v in vars(options).items()},
    }
    plain, guided = constraints(model, options)
    cell = plain if options.cells_per_sample == 1 else plain.sentences[0]
    result["columns"], result["nodes"] = len(cell.tokens), len(cell.trie.parent)
    result["look_up"] = look_up(cell)
    print(
        f"{len(model.vocabulary):,} genes, {result['columns']:,} tokens of them, {result['nodes']:,} nodes"
    )
    for name, micros in result["look_up"].items():
        print(f"  {name}: {micros:.1f} µs")
    prompts = [prompt] * (options.cells // options.cells_per_sample)
    same = warm_up_and_compare(model, prompts, plain, guided, options)
    print(f"the same sentences with and without guesses: {same}")
    result["same"], result["rows"] = same, rounds(model, prompts, plain, guided, options)
    for name, row in result["rows"].items():
        print(f"{name:28s} " + "  ".join(f"{k} {v}" for k, v in row.items()))
    if options.json:
        from c2s.common.files import atomic_file

        with atomic_file(options.json) as path:
            path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0 if same else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--tokenizer", default=".tokenizers/gpt-neox", help="of the random model")
    parser.add_argument(
        "--model", help="a model directory in 'text' mode, instead of random weights"
    )
    parser.add_argument("--top-k", type=int, default=200, help="genes of a cell")
    parser.add_argument("--cells", type=int, default=16, help="cells of a run")
    parser.add_argument("--cells-per-sample", type=int, default=1, help="cells of an answer")
    parser.add_argument("--batch-size", type=int, default=16, help="answers in a batch")
    parser.add_argument("--guesses", type=int, default=2, help="tokens that are guessed at most")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is run")
    parser.add_argument("--threads", type=int, default=1, help="threads of the network")
    parser.add_argument(
        "--skip-before", action="store_true", help="leave out the loop there was before"
    )
    parser.add_argument("--json", type=Path, help="write the result and the machine's facts here")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> tuple[Any, np.ndarray]:
    """Return a model and a prompt."""
    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.datasets import pancreas
    from c2s.models.directory import load_model
    from c2s.tasks.prompts import load_prompts
    from c2s.tokens.tokenizer import CellTokenizer, load_tokenizer

    if options.model:
        model = load_model(options.model)
        return model, prompt_of(model, options)
    words = GeneVocabulary.from_var(pancreas().var)
    tokenizer = CellTokenizer(load_tokenizer(options.tokenizer), words, "text")
    made = SimpleNamespace(
        network=random_network(options.cells_per_sample), tokenizer=tokenizer, vocabulary=words,
        prompts=load_prompts("c2s"),
    )  # fmt: skip
    return made, prompt_of(made, options)


def prompt_of(model: Any, options: argparse.Namespace) -> np.ndarray:
    """Return the ids of a prompt, for a sample with what stands before its first cell."""
    from c2s.tasks.registry import get_task

    n = options.cells_per_sample
    if n == 1:
        return np.asarray(model.tokenizer.encode(["Genes of a beta cell:"]))
    task, wording = get_task("mc_lm"), model.prompts.wording("mc_lm")
    values = {"organism": "Homo sapiens", "num_cells": n}
    prompt = task.ask(wording.prompts[0], values, None, options.top_k, wording)
    begin, _ = sample_constraint(model, options, [])
    return np.append(model.tokenizer.encode(prompt), begin)


def sample_constraint(
    model: Any, options: argparse.Namespace, frequencies: Any
) -> tuple[np.ndarray, Any]:
    """Return what samples begin with and what they may be."""
    from c2s.decoding.answers import GeneChoice, answer_constraint, texts_around
    from c2s.tasks.registry import get_task

    asked: Any = SimpleNamespace(
        tokenizer=model.tokenizer, card=SimpleNamespace(gene_frequencies=list(frequencies))
    )
    wording = model.prompts.wording("mc_lm")
    texts = texts_around(get_task("mc_lm"), wording, options.cells_per_sample)
    choice = GeneChoice(np.arange(len(model.vocabulary)), options.top_k, np.empty(0, np.int64))
    return answer_constraint(asked, texts, choice)


def random_network(cells: int) -> Any:
    import torch
    import transformers

    config = transformers.GPTNeoXConfig(
        vocab_size=50304, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024,
        max_position_embeddings=4096 * cells, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.GPTNeoXForCausalLM(config).eval()


def constraints(model: Any, options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the constraint without frequencies, and with those of the data."""
    from c2s.cells.sentences import cell_sentences
    from c2s.constraints.trie import GeneSentence, TokenTrie
    from c2s.datasets import pancreas

    trie = TokenTrie([model.tokenizer.gene_pieces(g) for g in range(len(model.vocabulary))])
    cells = cell_sentences(pancreas(), top_k=options.top_k)
    often = dict(
        zip(
            cells.vocabulary.words,
            np.bincount(cells.genes, minlength=len(cells.vocabulary)),
            strict=True,
        )
    )
    frequencies = np.array([often.get(word, 0) for word in model.vocabulary.words])
    if options.cells_per_sample > 1:
        return tuple(sample_constraint(model, options, f)[1] for f in ([], frequencies))
    end = model.tokenizer.eos_id
    return GeneSentence(trie, options.top_k, end), GeneSentence(
        trie, options.top_k, end, frequencies
    )


def look_up(constraint: Any) -> dict[str, float]:
    """Return median microseconds of a look-up in states of random sentences."""
    from c2s.constraints import kernels

    rng, state = np.random.default_rng(0), constraint.start()
    columns = np.empty(len(constraint.tokens), np.int64)
    begin: list[float] = []
    inside: list[float] = []
    advance: list[float] = []
    states = constraint.start_many(1)
    kernels.allowed(constraint.arrays, states, 0, columns)
    while not state.done:
        between = state._states.node[0] == 0
        started = time.perf_counter()
        tokens = state.allowed()
        (begin if between else inside).append(time.perf_counter() - started)
        token = int(rng.choice(tokens))
        started = time.perf_counter()
        state.advance(token)
        advance.append(time.perf_counter() - started)
    named = {"look-up, any state": begin + inside, "look-up between genes": begin, "look-up inside a gene": inside,
             "advance": advance}  # fmt: skip
    return {name: 1e6 * statistics.median(seconds) for name, seconds in named.items()}


def before(
    model: Any, prompts: list[np.ndarray], constraint: Any, options: argparse.Namespace
) -> Any:
    """Write sentences as it was done before."""
    import torch

    from c2s.common.seeds import cell_keys
    from c2s.decoding.engine import TransformersEngine
    from c2s.decoding.generation import write_token_by_token
    from c2s.decoding.sampling import Sampling

    engine = TransformersEngine(model, options.batch_size)
    keys = cell_keys([str(i) for i in range(len(prompts))], 0)
    states = [constraint.start() for _ in prompts]
    for at in range(0, len(prompts), options.batch_size):
        part = slice(at, at + options.batch_size)
        ids, mask = engine._left_padded(prompts[part])
        with torch.inference_mode():
            write_token_by_token(
                model.network, ids, mask, states[part], keys[part], Sampling(), engine.pad_id
            )
    return None


def now(guesses: int, timed: dict[str, float]) -> Callable[..., Any]:
    """Return a function that writes sentences, and adds the time of the constraint's parts to `timed`."""
    from c2s.decoding.engine import TransformersEngine
    from c2s.decoding.generation import SentenceWriter
    from c2s.decoding.sampling import Sampling

    def write(
        model: Any, prompts: list[np.ndarray], constraint: Any, options: argparse.Namespace
    ) -> Any:
        engine = TransformersEngine(model, options.batch_size, guesses)
        kept = SentenceWriter._take, SentenceWriter._guess
        SentenceWriter._take = clocked(kept[0], timed)  # type: ignore[method-assign]
        SentenceWriter._guess = clocked(kept[1], timed)  # type: ignore[method-assign]
        try:
            states = engine.generate(prompts, constraint, Sampling())
        finally:
            SentenceWriter._take, SentenceWriter._guess = kept  # type: ignore[method-assign]
        check(states, options)
        return [genes_of(state) for state in states], engine.passes

    return write


def genes_of(state: Any) -> list[list[int]]:
    return state.cells if hasattr(state, "cells") else [state.genes]


def check(states: list[Any], options: argparse.Namespace) -> None:
    """See that every answer has its cells, and every cell its genes, none twice."""
    for state in states:
        cells = genes_of(state)
        assert len(cells) == options.cells_per_sample
        assert all(len(set(cell)) == len(cell) == options.top_k for cell in cells)


def clocked(function: Callable[..., Any], timed: dict[str, float]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        started = time.perf_counter()
        result = function(*args)
        timed["seconds"] = timed.get("seconds", 0.0) + time.perf_counter() - started
        return result

    return call


def warm_up_and_compare(
    model: Any, prompts: list[np.ndarray], plain: Any, guided: Any, options: argparse.Namespace
) -> bool:
    """Compile everything, and say whether guesses change what is written."""
    wanted, _ = now(0, {})(model, prompts[:4], plain, options)
    found, _ = now(options.guesses, {})(model, prompts[:4], guided, options)
    return bool(found == wanted)


def rounds(
    model: Any, prompts: list[np.ndarray], plain: Any, guided: Any, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Run everything in each round; return medians, spread and ratios."""
    clocks: dict[str, dict[str, float]] = {}
    ways: dict[str, tuple[Callable[..., Any], Any]] = {}
    if not options.skip_before:
        ways["before"] = (before, plain)
    for name, guesses, constraint in (
        ("no guesses", 0, plain),
        ("guesses, learned only", options.guesses, plain),
        ("guesses, with frequencies", options.guesses, guided),
    ):
        clocks[name] = {}
        ways[name] = (now(guesses, clocks[name]), constraint)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    passes: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, (way, constraint) in ways.items():
            started = time.perf_counter()
            written = way(model, prompts, constraint, options)
            seconds[name].append(time.perf_counter() - started)
            passes[name] = written and written[1]
    return {
        name: row(
            name, seconds, passes[name], clocks.get(name), len(prompts) * options.cells_per_sample
        )
        for name in ways
    }


def row(
    name: str, seconds: dict[str, list[float]], passes: Any, clock: dict[str, float] | None, cells: int
) -> dict[str, Any]:  # fmt: skip
    rates = [cells / s for s in seconds[name]]
    found: dict[str, Any] = {
        "cells/s": round(statistics.median(rates), 3),
        "range": [round(min(rates), 3), round(max(rates), 3)],
    }
    if passes is not None and clock is not None:
        found["passes a gene"] = round(passes.per_gene, 3)
        found["tokens fed a gene"] = round(passes.fed / passes.genes, 3)
        found["constraint %"] = round(100 * clock["seconds"] / sum(seconds[name]), 2)
    if "before" in seconds and name != "before":
        ratios = [old / new for old, new in zip(seconds["before"], seconds[name], strict=True)]
        found["times before"] = round(statistics.median(ratios), 2)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
