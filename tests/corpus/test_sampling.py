"""Samples are drawn as the recipe says, from cells that belong together, and none is longer than the context."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from c2s.cells.sentences import cell_sentences
from c2s.cells.vocabulary import GeneVocabulary
from c2s.corpus.recipe import CorpusRecipe
from c2s.corpus.sampling import Drawn, Sample, UnitCells, draw_samples, fit, write_out
from c2s.tasks.prompts import load_prompts
from c2s.tasks.registry import TASKS
from c2s.tokens.assemble import Assembler
from c2s.tokens.tokenizer import (
    CellTokenizer,
    add_gene_tokens,
    load_tokenizer,
    train_text_tokenizer,
)

CELL_TASKS = [t for t, task in TASKS.items() if task.kind != "gene_set"]
PROMPTS = load_prompts("c2s")


def recipe(**changes):
    base = {
        "sources": [{"data": "x.h5ad"}],
        "samples_per_cell": 2.0,
        "single_genes": [50, 150],
        "multi_genes": [20, 60],
        "multi_cells": [2, 6],
        "context": 100_000,
    }
    return CorpusRecipe.model_validate(base | changes)


@pytest.fixture(scope="module")
def unit(pancreas):
    """160 cells of two studies, seven donors and two tissues; some fields are missing."""
    part = pancreas[np.random.default_rng(3).permutation(pancreas.n_obs)[:160]]
    ranked = cell_sentences(part, top_k=170)
    n = part.n_obs
    # Some cells are short.
    keep = np.where(np.arange(n) % 8 == 0, 30 + np.arange(n) // 4, 170)
    ranked = type(ranked).from_columns(
        [ranked.to_columns(i)[:k] for i, k in enumerate(keep.tolist())], ranked.vocabulary
    )
    fields = {
        "organism": ["Homo sapiens"] * n,
        "cell_type": [None if i % 16 == 3 else str(t) for i, t in enumerate(part.obs["cell_type"])],
        "tissue": [None if i % 10 == 7 else ("duct" if i % 3 else "islet") for i in range(n)],
        "donor": [None if i % 40 == 0 else f"d{i % 6}" for i in range(n)],
        "study": ["A" if i % 6 < 4 else "B" for i in range(n)],
        "disease": [None] * n,
        "development_stage": [None] * n,
        "assay": ["x"] * n,
    }
    return UnitCells(ranked, fields, {"A": ["About A, 2,048 islets.", "A in short.", "Of A."]})


@pytest.fixture(scope="module")
def assemblers(unit):
    """A tokenizer of our own in both modes."""
    texts = [p.text for t in TASKS for p in PROMPTS.wording(t).prompts]
    backend = train_text_tokenizer(texts, 600)
    genes = train_text_tokenizer(texts, 600)
    add_gene_tokens(genes, unit.ranked.vocabulary)
    return {
        "text": Assembler(CellTokenizer(backend, unit.ranked.vocabulary, "text")),
        "genes": Assembler(CellTokenizer(genes, unit.ranked.vocabulary, "genes")),
    }


def draw(unit, rows=None, keys=("s", 0, "train"), **changes):
    rows = np.arange(len(unit.ranked)) if rows is None else rows
    return draw_samples(unit, rows, recipe(**changes), PROMPTS, keys)


# --- what is drawn ----------------------------------------------------------------------------


def test_samples_are_shared_by_weight(unit):
    found = Counter(s.task for s in draw(unit, samples_per_cell=40).samples)
    assert set(found) == set(CELL_TASKS)
    n_cells = {t: 4 if TASKS[t].kind == "multi" else 1 for t in CELL_TASKS}  # 2 to 6: the mean is 4
    whole = sum(n**-0.5 for n in n_cells.values())
    for task, n in n_cells.items():
        assert abs(found[task] - 40 * 160 * n**-0.5 / whole) <= 1


def test_weights_of_the_recipe_and_numbers_that_are_not_whole(unit):
    tasks = {"cell_type": {"weight": 3}, "cond_cell": {"weight": 1}}
    numbers = [
        Counter(s.task for s in draw(unit, keys=(k,), tasks=tasks, samples_per_cell=0.33).samples)
        for k in range(300)
    ]
    total = 0.33 * 160
    for task, share in (("cell_type", 0.75), ("cond_cell", 0.25)):
        found = [n[task] for n in numbers]
        assert set(found) <= {int(total * share), int(total * share) + 1}
        assert np.mean(found) == pytest.approx(total * share, abs=0.12)


@pytest.mark.parametrize("per_cell", [0.5, 1.0, 2.7])
def test_every_cell_comes_once_before_any_comes_again(unit, per_cell):
    found = draw(unit, tasks={"sc_lm": None}, samples_per_cell=per_cell).samples
    able = np.flatnonzero(unit.ranked.lengths >= 50)
    times = Counter(s.rows[0] for s in found)
    assert set(times) <= set(able.tolist())
    counts = [times[r] for r in able.tolist()]
    assert max(counts) - min(counts) <= 1
    assert abs(len(found) - per_cell * 160) < 1


def group_of(unit, row):
    return tuple(unit.fields[f][row] for f in ("study", "donor", "tissue", "organism"))


def test_cells_of_a_sample_belong_together_and_none_comes_twice(unit):
    drawn = draw(unit, samples_per_cell=20)
    seen = set()
    for s in drawn.samples:
        if TASKS[s.task].kind == "multi":
            assert 2 <= len(s.rows) <= 6
            assert len(set(s.rows)) == len(s.rows)
            assert len({group_of(unit, r) for r in s.rows}) == 1
            seen.add((group_of(unit, s.rows[0]), len(s.rows)))
        else:
            assert len(s.rows) == 1
    assert {n for _, n in seen} == {2, 3, 4, 5, 6}
    assert len({g for g, _ in seen}) == 10


def test_a_donor_called_none_is_not_a_donor_that_is_missing(unit):
    donors = ["None" if d == "d0" else d for d in unit.fields["donor"]]
    donors = [None if d == "d1" else d for d in donors]
    named = replace(unit, fields={**unit.fields, "donor": donors})
    mixed = [
        s for s in draw(named, samples_per_cell=20).samples
        if len({donors[r] for r in s.rows}) > 1
    ]  # fmt: skip
    assert mixed == []


def test_groups_are_drawn_as_often_as_they_have_cells(unit):
    drawn = draw(unit, samples_per_cell=60, tasks={"mc_lm": None})
    long_enough = np.flatnonzero(unit.ranked.lengths >= 20)
    sizes = Counter(group_of(unit, r) for r in long_enough.tolist())
    sizes = {g: n for g, n in sizes.items() if n >= 2}
    found = Counter(group_of(unit, s.rows[0]) for s in drawn.samples)
    total, n = sum(sizes.values()), len(drawn.samples)
    for group, size in sizes.items():
        expected = n * size / total
        assert abs(found[group] - expected) < 5 * expected**0.5


def test_all_cells_of_a_sample_have_the_number_of_genes(unit):
    drawn = draw(unit, samples_per_cell=20)
    lengths = unit.ranked.lengths
    ranges = {"single": (50, 150), "multi": (20, 60)}
    for s in drawn.samples:
        low, high = ranges[TASKS[s.task].kind]
        assert low <= s.genes <= min(high, *(lengths[r] for r in s.rows))
        assert s.genes == s.drawn
    assert {s.genes for s in drawn.samples if s.task == "mc_lm"} >= {20, 60}
    # Each of the cells that is written has them all.
    for s, parts in zip(
        drawn.samples[::50], write_out(drawn.samples[::50], unit, PROMPTS), strict=True
    ):
        assert parts.n_genes == s.genes


def test_ranges_of_a_task_go_before_the_general_ones(unit):
    tasks = {"tissue": {"genes": [25, 30], "cells": [3, 3]}, "cell_type": {"genes": [60, 60]}}
    for s in draw(unit, tasks=tasks).samples:
        assert (25 <= s.genes <= 30 and len(s.rows) == 3) if s.task == "tissue" else s.genes == 60


def test_missing_fields_and_short_cells_are_counted(unit):
    rows = np.arange(0, 160)
    dropped = draw(unit, rows).dropped
    fields, lengths = unit.fields, unit.ranked.lengths
    no_type = sum(fields["cell_type"][r] is None for r in rows)
    no_tissue = sum(fields["tissue"][r] is None for r in rows)
    short = sum(lengths[r] < 50 for r in rows)
    short_typed = sum(lengths[r] < 50 and fields["cell_type"][r] is not None for r in rows)
    assert min(no_type, no_tissue, short, short_typed) > 0
    assert dropped["cell_type: cell has no cell_type"] == no_type
    assert dropped["cond_cell: cell has no cell_type"] == no_type
    assert dropped["sample_cell_types: cell has no cell_type"] == no_type
    assert dropped["tissue: cell has no tissue"] == no_tissue
    assert dropped["nl_interpretation: cell has no abstract"] == fields["study"].count("B")
    assert dropped["sc_lm: cell has too few genes"] == short
    assert dropped["cell_type: cell has too few genes"] == short_typed
    sizes = Counter(group_of(unit, r) for r in rows if lengths[r] >= 20)
    alone = sum(n for n in sizes.values() if n < 2)
    reason = "mc_lm: cell of a donor and tissue with too few cells in its unit"
    assert alone > 0
    assert dropped[reason] == alone
    assert "sc_lm: cell has no cell_type" not in dropped


def test_a_cell_without_a_field_is_in_no_sample_that_needs_it(unit):
    for s in draw(unit, samples_per_cell=10).samples:
        for name in TASKS[s.task].needs:
            if name == "abstract":
                assert {unit.fields["study"][r] for r in s.rows} == {"A"}
            else:
                assert all(unit.fields[name][r] is not None for r in s.rows)


def test_every_wording_and_every_text_of_an_abstract_is_used(unit):
    drawn = draw(unit, samples_per_cell=30, tasks={"nl_interpretation": None})
    n = len(PROMPTS.wording("nl_interpretation").prompts)
    assert n >= 10
    assert {s.wording for s in drawn.samples} == set(range(n))
    assert {s.text for s in drawn.samples} == {0, 1, 2}
    parts = write_out(drawn.samples, unit, PROMPTS)
    texts = unit.abstracts["A"]
    assert all(
        p.response == [f" {texts[s.text]}"] for s, p in zip(drawn.samples, parts, strict=True)
    )


def test_only_the_rows_that_are_given_are_used(unit):
    rows = np.arange(40, 90)
    drawn = draw(unit, rows, samples_per_cell=5)
    assert {r for s in drawn.samples for r in s.rows} <= set(rows.tolist())
    assert abs(len(drawn.samples) - 250) < 10


def test_nothing_to_draw_from(unit):
    assert draw(unit, np.empty(0, np.int64)).samples == []
    assert (
        draw(unit, single_genes=[160, 170], tasks={"sc_lm": None}, samples_per_cell=0).samples == []
    )
    drawn = draw(unit, multi_cells=[90, 100], tasks={"mc_lm": None})
    assert drawn.samples == []
    assert sum(drawn.dropped.values()) == 160


def test_the_draw_belongs_to_its_keys_and_the_seed(unit):
    first = draw(unit)
    assert draw(unit) == first
    assert draw(unit, keys=("s", 0, "val")).samples != first.samples
    assert draw(unit, keys=("s", 1, "train")).samples != first.samples
    assert draw(unit, seed=1).samples != first.samples


def test_the_order_of_tasks_in_the_recipe_does_not_matter(unit):
    tasks = {"tissue": {"weight": 2}, "sc_lm": None, "cell_type": None, "mc_lm": None}
    backwards = dict(reversed(tasks.items()))
    assert draw(unit, tasks=tasks) == draw(unit, tasks=backwards)


# --- the context ------------------------------------------------------------------------------


def lengths_of(samples, unit, assembler):
    return assembler.batch(write_out(samples, unit, PROMPTS), unit.ranked).lengths


def best(sample, low, context, unit, assembler):
    """Return the largest number of genes with which a sample fits, by trying all, or None."""
    tried = [sample._replace(genes=k) for k in range(low, sample.drawn + 1)]
    fitting = np.flatnonzero(lengths_of(tried, unit, assembler) <= context)
    return None if not len(fitting) else tried[fitting[-1]].genes


def check_fit(unit, assembler, context, **changes):
    """Check `fit` against trying everything; return how many were left, shortened in genes, in cells, and dropped."""
    chosen = recipe(context=context, **changes)
    drawn = draw(unit, context=context, **changes)
    before, old = list(drawn.samples), Counter(drawn.dropped)
    lengths = lengths_of(before, unit, assembler)
    samples, batch = fit(Drawn(list(before), Counter(old)), unit, chosen, PROMPTS, assembler)
    assert batch.lengths.max(initial=0) <= context
    np.testing.assert_array_equal(batch.lengths, lengths_of(samples, unit, assembler))
    after = Drawn(list(before), Counter(old))
    again, _ = fit(after, unit, chosen, PROMPTS, assembler)
    assert again == samples
    dropped = after.dropped - old
    assert sum(dropped.values()) == len(before) - len(samples)
    found = iter(samples)
    kept = next(found, None)
    outcome = Counter()
    for sample, length in zip(before, lengths.tolist(), strict=True):
        mine = kept is not None and (kept.task, kept.wording, kept.rows, kept.text) == (
            sample.task, sample.wording, sample.rows[: len(kept.rows)], sample.text,
        )  # fmt: skip
        low, fewest = chosen.genes_of(sample.task)[0], chosen.cells_of(sample.task)[0]
        expected = None
        for n in range(len(sample.rows), fewest - 1, -1):
            shorter = sample._replace(rows=sample.rows[:n])
            genes = best(shorter, low, context, unit, assembler)
            if genes is not None:
                expected = shorter._replace(genes=genes)
                break
        if length <= context:
            assert expected == sample
        assert (kept if mine else None) == expected
        if expected is None:
            outcome["dropped"] += 1
            assert dropped[f"{sample.task}: sample does not fit the context"] > 0
            continue
        name = "cells" if len(kept.rows) < len(sample.rows) else "genes"
        outcome["untouched" if kept == sample else name] += 1
        kept = next(found, None)
    assert kept is None
    return outcome


@pytest.mark.parametrize(
    ("mode", "context"),
    [("text", 300), ("text", 700), ("genes", 90), ("genes", 130), ("genes", 200)],
)
def test_what_fits_is_left_and_the_rest_gets_as_many_genes_as_fit(unit, assemblers, mode, context):
    outcome = check_fit(unit, assemblers[mode], context, samples_per_cell=1)
    assert min(outcome[k] for k in ("untouched", "genes", "cells")) > 0


def test_samples_that_cannot_fit_are_dropped_and_counted(unit, assemblers):
    outcome = check_fit(unit, assemblers["text"], 100, samples_per_cell=1)
    assert outcome["dropped"] > 0
    everything = check_fit(unit, assemblers["genes"], 64, samples_per_cell=0.5, multi_cells=[6, 6])
    assert everything["dropped"] > 40


def test_numbers_that_take_fewer_tokens(unit, assemblers):
    """One gene less can be several tokens more, where the number of genes is a token in one case only."""
    for context in range(140, 165):
        tasks = {"sc_lm": None, "cond_cell": None}
        check_fit(
            unit,
            assemblers["genes"],
            context,
            samples_per_cell=0.3,
            tasks=tasks,
            single_genes=[90, 150],
        )


@pytest.mark.parametrize("name", ["gpt-neox", "gemma", "smollm2"])
def test_real_tokenizers_fit_as_well(unit, real_tokenizers, name):
    tokenizer = CellTokenizer(
        load_tokenizer(real_tokenizers / name), unit.ranked.vocabulary, "text"
    )
    outcome = check_fit(unit, Assembler(tokenizer), 330, samples_per_cell=0.4)
    assert outcome["genes"] > 0


def test_the_longest_context_changes_nothing(unit, assemblers):
    drawn = draw(unit)
    samples, batch = fit(drawn, unit, recipe(), PROMPTS, assemblers["text"])
    assert samples == drawn.samples
    assert len(batch) == len(samples)


def test_nothing_to_fit(unit, assemblers):
    samples, batch = fit(Drawn(), unit, recipe(), PROMPTS, assemblers["text"])
    assert samples == []
    assert len(batch) == 0


def test_a_sample_is_written_out_with_its_own_cells(unit):
    sample = Sample("cond_sample_cell_type", 0, (4, 10), 20, 20)
    (parts,) = write_out([sample], unit, PROMPTS)
    types = [unit.fields["cell_type"][r] for r in (4, 10)]
    text = "".join(p for p in parts.prompt if isinstance(p, str))
    assert text.index(f"Cell 1: {types[0]}") < text.index(f"Cell 2: {types[1]}")
    assert "20" in text
    assert "Homo sapiens" in text
    assert [p for p in parts.response if not isinstance(p, str)] == [4, 10]
    assert isinstance(unit.ranked.vocabulary, GeneVocabulary)
