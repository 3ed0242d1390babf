"""A position of the stream is always the same example; cells and tasks come as often as asked."""

import numpy as np
import pytest
import scipy.sparse as sp

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import UsageError
from c2s.corpus import online
from c2s.corpus.online import CellTable, OnlineExamples, TaskMix
from c2s.tasks.prompts import PromptPack, TaskWording, Template, load_prompts

N_CELLS, N_GENES = 23, 60


@pytest.fixture(scope="module")
def table():
    counts = np.random.default_rng(0).negative_binomial(0.6, 0.1, (N_CELLS, N_GENES))
    return CellTable(
        sp.csr_matrix(counts.astype(np.float32)),
        GeneVocabulary([f"g{i}" for i in range(N_GENES)]),
        np.array([f"cell{i}" for i in range(N_CELLS)], dtype=object),
        {
            # Every cell has a type of its own, which tells the cell of an example.
            "cell_type": np.array([f"type{i}" for i in range(N_CELLS)], dtype=object),
            "organism": np.array(["Homo sapiens"] * N_CELLS, dtype=object),
        },
    )


def numbered(n):
    """Wordings that say which one they are."""
    prompts = tuple(Template.parse(f"{i}|{{cell_type}}|{{num_genes}}|") for i in range(n))
    return TaskWording(prompts, Template.parse(" {cell_sentence}"))


PACK = PromptPack("test", {"cond_cell": numbered(4), "cell_type": numbered(3)})


def stream(table, tasks=None, *, prompts=PACK, top_k=20, n=500, seed=0):
    tasks = tasks or {"cell_type": TaskMix(thin=0.3), "cond_cell": TaskMix(weight=2.0)}
    return OnlineExamples(table, tasks, prompts, top_k, n, seed)


def key(example):
    """Return an example as something that compares by value."""
    parts = [*example.prompt, *example.response]
    return example.task, tuple(p if isinstance(p, str) else tuple(p.tolist()) for p in parts)


def draw(examples, positions=None):
    return [key(e) for e in examples.draw(range(len(examples)) if positions is None else positions)]


def cell_of(example):
    return int("".join(p for p in example.prompt if isinstance(p, str)).split("|")[1][4:])


def cond_cell(table, **options):
    """Draw a whole stream of conditional generation: the responses are the cells as ranked."""
    mix = TaskMix(**{k: options.pop(k) for k in ("thin", "unthinned") if k in options})
    found = stream(table, {"cond_cell": mix}, **options)
    return found.draw(range(len(found)))


def test_a_position_is_the_same_whatever_was_drawn_before(table):
    whole = draw(stream(table))
    assert len(set(whole)) > 400
    backwards = stream(table)
    assert [draw(backwards, [p])[0] for p in range(499, -1, -5)] == whole[::-5]
    order = np.random.default_rng(0).permutation(500)
    mixed = stream(table)
    for part in np.array_split(order, 7):
        assert draw(mixed, part) == [whole[p] for p in part]
    assert draw(mixed, [3, 3, 3]) == [whole[3]] * 3
    assert draw(mixed, []) == []


def test_another_seed_is_another_stream(table):
    a, b = draw(stream(table, seed=0)), draw(stream(table, seed=1))
    assert sum(x == y for x, y in zip(a, b, strict=True)) < 10


def test_every_cell_is_seen_once_a_round(table):
    examples = stream(table, n=400)
    drawn = examples.draw(range(400))
    orders = {}
    for task in ("cell_type", "cond_cell"):
        rows = [cell_of(e) for e in drawn if e.task == task]
        rounds = [rows[i : i + N_CELLS] for i in range(0, len(rows), N_CELLS)]
        assert len(rounds) > 4
        assert all(sorted(r) == list(range(N_CELLS)) for r in rounds[:-1])
        assert len(set(rounds[-1])) == len(rounds[-1])
        assert rounds[0] != rounds[1]
        orders[task] = rounds[0]
    assert orders["cell_type"] != orders["cond_cell"]


def test_tasks_come_by_their_weights(table):
    n = 4000
    tasks = {"cell_type": TaskMix(weight=0.5), "cond_cell": TaskMix(weight=1.5)}
    examples = stream(table, tasks, n=n)
    share = np.mean([e.task == "cond_cell" for e in examples.draw(range(n))])
    assert abs(share - 0.75) < 5 * (0.75 * 0.25 / n) ** 0.5
    assert len(examples) == n


def test_the_order_in_which_tasks_are_given_does_not_matter(table):
    tasks = {"cell_type": TaskMix(), "cond_cell": TaskMix(weight=3.0)}
    turned = dict(reversed(tasks.items()))
    assert draw(stream(table, tasks)) == draw(stream(table, turned))


def test_wordings_are_drawn_evenly(table):
    drawn = cond_cell(table, n=2000)
    which = np.bincount([int(e.prompt[0].split("|")[0]) for e in drawn], minlength=4) / 2000
    assert np.abs(which - 0.25).max() < 5 * (0.25 * 0.75 / 2000) ** 0.5


def test_examples_hold_the_cell_and_its_texts(table):
    counts = table.counts.toarray()
    for example in cond_cell(table, n=60):
        row, cell = cell_of(example), example.response[1]
        values = counts[row, cell]
        assert (np.diff(values) <= 0).all()
        assert len(set(cell.tolist())) == len(cell) == min(20, (counts[row] > 0).sum())
        assert values[-1] >= np.sort(counts[row])[-len(cell)]
        assert example.prompt[0].split("|")[2] == str(len(cell))


def test_a_cell_seen_again_has_other_ties(table):
    by_cell = {}
    for example in cond_cell(table, n=10 * N_CELLS, top_k=N_GENES):
        by_cell.setdefault(cell_of(example), []).append(tuple(example.response[1].tolist()))
    for sentences in by_cell.values():
        assert len(set(sentences)) == 10
        assert len({frozenset(s) for s in sentences}) == 1  # but the same genes


def test_top_k_limits_the_genes(table):
    assert {len(e.response[1]) for e in cond_cell(table, top_k=5, n=40)} == {5}


def share_kept(table, **options):
    """Return the share of molecules that was asked for in each example, and the examples."""
    asked = []
    real = online.rank_matrix

    def spy(matrix, *args, keep, **kwargs):
        asked.extend(np.broadcast_to(keep, matrix.shape[0]).tolist())
        return real(matrix, *args, keep=keep, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online, "rank_matrix", spy)
        drawn = cond_cell(table, top_k=N_GENES, **options)
    return np.array(asked), drawn


def test_the_share_kept_is_uniform_above_the_smallest(table):
    asked, drawn = share_kept(table, thin=0.2, unthinned=0.25, n=4000)
    whole = asked == 1
    assert abs(whole.mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    thinned = asked[~whole]
    assert 0.2 <= thinned.min() < 0.21
    assert 0.99 < thinned.max() < 1
    # Mean and variance of a uniform between 0.2 and 1.
    assert abs(thinned.mean() - 0.6) < 5 * (0.8**2 / 12 / len(thinned)) ** 0.5
    assert thinned.var() == pytest.approx(0.8**2 / 12, rel=0.05)
    n_genes = np.array([len(e.response[1]) for e in drawn])
    assert n_genes[asked < 0.3].mean() < n_genes[whole].mean() - 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 1.0), ({"thin": 0.5, "unthinned": 1.0}, 1.0), ({"thin": 1.0, "unthinned": 0.0}, 1.0)],
)
def test_nothing_is_thinned_unless_asked_for(table, options, expected):
    asked, _ = share_kept(table, n=200, **options)
    assert set(asked) == {expected}


def test_everything_is_thinned_where_asked_for(table):
    asked, _ = share_kept(table, n=200, thin=0.9, unthinned=0.0)
    assert (asked < 1).all()
    assert (asked >= 0.9).all()


def test_thinning_moves_neither_cells_nor_wordings(table):
    plain, thinned = cond_cell(table, n=100), cond_cell(table, n=100, thin=0.5)
    assert [cell_of(e) for e in plain] == [cell_of(e) for e in thinned]
    first = [[e.prompt[0].split("|")[0] for e in some] for some in (plain, thinned)]
    assert first[0] == first[1]


def test_annotation_gives_the_cell_and_asks_for_the_type(table):
    examples = stream(table, {"cell_type": TaskMix()}, prompts=load_prompts(), n=5)
    for example in examples.draw(range(5)):
        cells = [p for p in example.prompt if isinstance(p, np.ndarray)]
        assert [len(c) for c in cells] == [20]
        assert example.response[0].strip().startswith("type")
        english = "".join(p for p in example.prompt if isinstance(p, str))
        assert "Homo sapiens" in english
        assert example.response[0].strip() not in english


def test_a_missing_field_is_named(table):
    bare = CellTable(table.counts, table.vocabulary, table.cell_ids, {"cell_type": table.cell_ids})
    with pytest.raises(UsageError, match="needs 'organism' for each cell"):
        stream(bare)


def test_an_unknown_task_is_refused(table):
    with pytest.raises(UsageError, match="there is no task 'celltype'"):
        stream(table, {"celltype": TaskMix()})


@pytest.mark.parametrize(
    ("field", "value"), [("weight", 0), ("thin", 0), ("thin", 1.1), ("unthinned", -0.1)]
)
def test_a_mixture_that_cannot_work_is_refused(field, value):
    with pytest.raises(UsageError, match=f"mix: {field} = {value}: "):
        TaskMix.parse({field: value}, "mix")


def test_an_empty_stream(table):
    assert len(stream(table, n=0)) == 0
