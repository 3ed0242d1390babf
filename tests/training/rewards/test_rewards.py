"""Every reward beside hand calculations and slow ways to the same, and what is refused."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.ranked import RankedCells
from c2s.common.config import Config
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.metrics import bertscore, energy_distance, kendall_tau_b, scfid
from c2s.training.rewards import (
    REWARDS,
    AnyReward,
    RealCells,
    combined,
    form,
    open_rewards,
    open_space,
    read_reward,
)
from c2s.training.rewards.pairs import random_pairs
from c2s.training.rewards.programme import programme_tau, rank_scores
from c2s.training.rewards.space import shared_genes

LINE = RankExpressionModel(slope=-0.5, intercept=2.0)


def opened(content, real, vocabulary, inverse=LINE, encoder=None, **more):
    (reward,) = open_rewards([read_reward(content)], real, inverse, vocabulary, encoder, **more)
    return reward.function


@pytest.fixture(scope="module")
def real(words):
    """Six cells of condition a, one of b."""
    rng = np.random.default_rng(0)
    cells = RankedCells.from_columns([rng.permutation(12)[:6] for _ in range(7)], words)
    return RealCells(
        cells, LINE.expression(cells), ["a", "b", "c"], np.array([0, 0, 0, 0, 0, 0, 1])
    )


class Plain:
    """An encoder that is looked through: the first four genes."""

    name = "plain"
    n_dimensions = 4

    def encode(self, expression, vocabulary):
        return np.asarray(expression[:, :4].todense(), np.float64)

    def digest(self):
        return "0" * 64


class Particular(Plain):
    """An encoder that refuses cells without genes."""

    def encode(self, expression, vocabulary):
        if (np.diff(expression.indptr) == 0).any():
            raise InputError("a cell without genes")
        return super().encode(expression, vocabulary)


# --- Kendall's tau ---------------------------------------------------------------------------------


def test_the_check_vector_of_tau_b(answers, words):
    # SPEC 7.5: x = [5,4,3,0,0,0], y = [4,5,2,1,0,0] gives 0.771517; genes that are missing share the lowest score.
    truth = sp.csr_matrix(np.array([[4.0, 5, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]]))
    real = RealCells(
        RankedCells.from_columns([[1, 0, 2, 3]], words), truth, ["a"], np.zeros(1, int)
    )
    reward = opened(
        {"name": "kendall_tau", "genes": ["g0", "G1", "G2", "G3", "G4", "G5"]}, real, words
    )
    found = reward(answers([[0, 11, 1, 9, 2], [8, 9]], vocabulary=words, truth=np.zeros(2, int)))
    assert found[0] == pytest.approx(0.771517, abs=1e-6)
    assert found[1] == 0  # none of the genes: undefined, which is NaN in the metric
    assert np.isnan(kendall_tau_b([0, 0, 0], [1, 2, 3]))


def test_tau_is_that_of_scipy_and_reads_rank_or_expression(answers, words, real):
    rng = np.random.default_rng(1)
    rows = [rng.permutation(12)[: rng.integers(3, 12)] for _ in range(20)]
    rollouts = answers(rows, vocabulary=words, truth=np.arange(20) % 8 - 1)
    genes = [2, 3, 5, 7, 11]
    recipe = {"name": "kendall_tau", "genes": [f"G{i}" for i in genes]}
    for kind in ("expression", "rank"):
        found = opened({**recipe, "truth": kind}, real, words)(rollouts)
        for i, (row, cell) in enumerate(zip(rows, rollouts.truth, strict=True)):
            if cell < 0:
                assert np.isnan(found[i])
                continue
            places = {gene: -place for place, gene in enumerate(row.tolist())}
            mine = [places.get(gene, -100) for gene in genes]
            if kind == "rank":
                at = {g: -p for p, g in enumerate(real.cells.to_columns(cell).tolist())}
                true = [at.get(gene, -100) for gene in genes]
            else:
                true = real.expression[cell, genes].toarray().ravel()
            expected = kendalltau(mine, true).statistic
            assert found[i] == pytest.approx(0 if np.isnan(expected) else expected, abs=1e-9)


def test_of_a_gene_that_comes_twice_the_first_place_counts(words):
    scores = rank_scores(RankedCells.from_columns([[3, 4, 3], []], words), np.array([3, 4, 5]))
    assert scores.tolist() == [[0, -1, -3], [0, 0, 0]]
    assert np.isnan(programme_tau(scores, np.full((2, 3), np.nan))).all()


def test_sets_of_a_file_are_united(tmp_path, words, real, answers):
    (tmp_path / "sets.gmt").write_text(
        "ONE\t-\tG1\tG2\tABSENT\nTWO\t-\tG2\tG7\nFEW\t-\tABSENT\tG3\n"
    )
    recipe = {"name": "kendall_tau", "gene_sets": "sets.gmt"}
    rollouts = answers([[7, 2, 1], [1, 2, 7]], vocabulary=words, truth=np.array([0, 1]))
    with pytest.warns(C2SWarning, match="1 of 4 genes are not in .* left out: ABSENT"):
        united = opened({**recipe, "sets": ["ONE", "TWO"]}, real, words, folder=tmp_path)(rollouts)
    by_name = opened({"name": "kendall_tau", "genes": ["G1", "G2", "G7"]}, real, words)(rollouts)
    np.testing.assert_array_equal(united, by_name)
    with pytest.raises(
        InputError, match=r"rewards.0 \(kendall_tau\).sets: .* no set 'ON'; did you mean 'ONE'"
    ):
        opened({**recipe, "sets": ["ON"]}, real, words, folder=tmp_path)
    with pytest.raises(
        InputError, match="1 of 2 genes are in the model's vocabulary, expected at least 2"
    ):
        opened({**recipe, "sets": ["FEW"]}, real, words, folder=tmp_path)


# --- places ----------------------------------------------------------------------------------------


def test_pairs_are_of_the_condition_and_none_comes_twice_before_all_came(answers, words, real):
    rows = [[i] for i in range(12)]
    rollouts = answers(rows, [0] * 4 + [1] * 7 + [2], [0] * 11 + [2], words)
    pairs = random_pairs(rollouts, real)
    assert set(real.condition[pairs[:11]]) == {0}
    assert len(set(pairs[:4])) == 4
    assert set(pairs[4:11]) == set(range(6))  # six real cells for seven answers
    assert pairs[11] == -1
    again = random_pairs(
        answers(rows, [0] * 4 + [1] * 7 + [2], [0] * 11 + [2], words, seed=4), real
    )
    assert (again != pairs).any()
    # A group's pairs do not depend on the groups beside it.
    alone = random_pairs(answers(rows[4:11], [1] * 7, [0] * 7, words), real)
    np.testing.assert_array_equal(alone, pairs[4:11])


def test_groups_of_one_condition_are_paired_differently(answers, words, real):
    pairs = random_pairs(answers([[0]] * 24, np.repeat(range(4), 6), [0] * 24, words), real)
    assert len({tuple(p) for p in pairs.reshape(4, 6)}) > 1
    assert (np.sort(pairs.reshape(4, 6), axis=1) == np.arange(6)).all()


def test_pairs_are_uniform(answers, words, real):
    drawn = [
        random_pairs(answers([[0]] * 3, vocabulary=words, seed=s), real)[1] for s in range(1200)
    ]
    counts = np.bincount(drawn, minlength=6)
    assert len(counts) == 6
    assert counts.min() > 140  # of 200; six standard deviations of 13


@pytest.mark.parametrize("genes", [None, ["G1", "G3", "G8"]])
def test_negative_mse_by_hand(answers, words, real, genes):
    rows = [[0, 1, 2], [3, 1, 8], [8, 9], [2]]
    rollouts = answers(rows, [0, 0, 0, 1], [0, 0, 0, 2], words)
    recipe = {"name": "negative_mse"} | ({"genes": genes} if genes else {})
    found = opened(recipe, real, words, encoder=Plain())(rollouts)
    pairs = random_pairs(rollouts, real)
    kept = np.ones(12) if genes is None else np.isin(np.arange(12), [1, 3, 8])
    mine, theirs = (m.toarray() * kept for m in (LINE.expression(rollouts.cells), real.expression))
    for i in range(3):
        expected = -((mine[i, :4] - theirs[pairs[i], :4]) ** 2).sum() / 4
        assert found[i] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(found[3])  # no real cell of its condition


def test_an_empty_answer_gets_the_lowest_of_its_group(answers, words, real):
    rows = [[0, 1], [3, 1], [], [8, 9], [2, 0], [], [], [1]]
    rollouts = answers(rows, [0] * 5 + [1] * 3, [0] * 8, words)
    full = [0, 1, 3, 4]
    for name in ("negative_mse", "energy_distance", "scfid", "diversity"):
        found = opened({"name": name}, real, words, encoder=Plain())(rollouts)
        assert found[2] == found[full].min()
        if name == "negative_mse":
            assert found[5] == found[6] == found[7]
        else:
            assert np.isnan(found[5:]).all()  # one cell is no group
            alone = answers([rows[i] for i in full], vocabulary=words)
            fewer = opened({"name": name}, real, words, encoder=Plain())(alone)
            np.testing.assert_allclose(found[full], fewer)


def test_cells_without_genes_of_the_programme_are_where_the_encoder_places_nothing(
    answers, words, real
):
    rollouts = answers([[4, 5], [0, 1], [1, 2], [3, 1]], vocabulary=words)
    recipe = {"name": "negative_mse", "genes": ["G0", "G1"]}
    found = opened(recipe, real, words, encoder=Plain())(rollouts)
    truth = real.expression.toarray()[random_pairs(rollouts, real)[0], :2]
    assert found[0] == pytest.approx(-(truth**2).sum() / 4, rel=1e-6)
    # An encoder that places no such cell: real ones are no partners, and the answer gets the lowest of its group.
    refused = opened(recipe, real, words, encoder=Particular())(rollouts)
    partners = real.expression.toarray()[[3, 5], :2]
    mine = LINE.expression(rollouts.cells).toarray()[:, :2]
    for i in (1, 2, 3):
        possible = -((mine[i] - partners) ** 2).sum(axis=1) / 4
        assert np.isclose(refused[i], possible, rtol=1e-6).any()
    assert refused[0] == refused[1:].min()


@pytest.mark.parametrize("name", ["energy_distance", "scfid"])
def test_group_rewards_are_those_of_their_groups(answers, words, real, name):
    rng = np.random.default_rng(2)
    rows = [rng.permutation(12)[:6] for _ in range(14)]
    group = [0] * 5 + [2] * 5 + [3] * 2 + [7] * 2
    rollouts = answers(rows, group, [0] * 5 + [1] * 5 + [0] * 2 + [-1] * 2, words)
    space = open_space(Plain(), real, LINE)
    found = opened({"name": name}, real, words, encoder=space)(rollouts)
    assert np.isnan(found[5:]).all()  # one real cell; a group of two; no condition
    measure = {"energy_distance": energy_distance, "scfid": scfid}[name]
    truth, mine = (
        real.expression.toarray()[:6, :4],
        LINE.expression(rollouts.cells).toarray()[:5, :4],
    )
    for i in range(5):
        without = measure(truth, np.delete(mine, i, axis=0))
        assert found[i] == pytest.approx(
            -5 * measure(truth, mine) + 4 * without, rel=1e-5, abs=1e-5
        )


@pytest.mark.parametrize("name", ["energy_distance", "scfid"])
def test_real_cells_are_drawn_by_the_seed_of_the_step(answers, words, real, name):
    rng = np.random.default_rng(2)
    rows = [rng.permutation(12)[:6] for _ in range(5)]
    reward = opened({"name": name, "real_cells": 3}, real, words, encoder=Plain())
    values = [reward(answers(rows, vocabulary=words, seed=seed)) for seed in (1, *range(1, 20))]
    np.testing.assert_array_equal(values[0], values[1])
    assert len({v[0] for v in values}) > 1
    measure = {"energy_distance": energy_distance, "scfid": scfid}[name]
    truth = real.expression.toarray()[:6, :4]
    mine = LINE.expression(RankedCells.from_columns(rows, words)).toarray()[:, :4]
    possible = [
        -5 * measure(truth[[a, b, c]], mine) + 4 * measure(truth[[a, b, c]], mine[1:])
        for a in range(6) for b in range(a) for c in range(b)
    ]  # fmt: skip
    assert all(np.isclose(possible, v[0], rtol=1e-4, atol=1e-5).any() for v in values)
    # Groups of one condition are compared with different draws.
    same = reward(answers(rows * 6, np.repeat(range(6), 5), vocabulary=words)).reshape(6, 5)
    assert len(np.unique(same[:, 0].round(9))) > 1
    every = opened({"name": name, "real_cells": 6}, real, words, encoder=Plain())
    whole = opened({"name": name}, real, words, encoder=Plain())
    rollouts = answers(rows, vocabulary=words)
    np.testing.assert_array_equal(every(rollouts), whole(rollouts))


def test_shared_genes_are_a_share_of_the_longer_sentence(words):
    left = RankedCells.from_columns([[0, 1, 2, 3], [], [5]], words)
    right = RankedCells.from_columns([[1, 0], [3, 2, 1, 0], []], words)
    assert shared_genes(left, right).tolist() == [[0.5, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_sentence_diversity_by_hand(answers, words):
    # Distances 0-1: half of four genes; 0-2 and 1-2: none in common. Mean 5/6. Without 0: 1; 1: 1; 2: 1/2.
    rollouts = answers([[0, 1, 2, 3], [3, 4, 1, 5], [8, 9], []], vocabulary=words)
    found = opened("diversity", None, words, inverse=None)(rollouts)
    np.testing.assert_allclose(found, [0.5, 0.5, 1.5, 0.5])


class Choosy(Plain):
    """An encoder that refuses a matrix with a cell none of whose genes is among the first four."""

    def encode(self, expression, vocabulary):
        if (np.diff(expression[:, :4].indptr) == 0).any():
            raise InputError("a cell of unknown genes")
        return super().encode(expression, vocabulary)


def test_answers_that_the_encoder_refuses_get_the_lowest_of_their_group(answers, words):
    cells = RankedCells.from_columns([[0, 5, 7], [2, 1], [3, 8], [9, 11]], words)
    real = RealCells(cells, LINE.expression(cells), ["a"], np.zeros(4, int))
    rows = [[0, 1], [5, 6], [2, 9], [1, 3, 4], [7, 8], [3, 2]]
    found = opened("energy_distance", real, words, encoder=Choosy())(
        answers(rows, vocabulary=words)
    )
    known = answers([rows[i] for i in (0, 2, 3, 5)], vocabulary=words)
    expected = opened("energy_distance", real, words, encoder=Choosy())(known)
    np.testing.assert_allclose(found[[0, 2, 3, 5]], expected)
    assert found[1] == found[4] == expected.min()
    mine, theirs = (
        LINE.expression(c).toarray()[:, :4] for c in (known.cells, cells.take([0, 1, 2]))
    )
    assert expected.mean() == pytest.approx(-energy_distance(theirs, mine), rel=1e-6)
    # Where it refuses all real cells, that is said before the first step, in its own words.
    foreign = cells.take([3, 3])
    with pytest.raises(InputError, match="a cell of unknown genes"):
        opened(
            "scfid",
            RealCells(foreign, LINE.expression(foreign), ["a"], np.zeros(2, int)),
            words,
            encoder=Choosy(),
        )


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.permutations(range(5)), st.integers(0, 20))
def test_permuted_answers_have_permuted_rewards(answers, words, real, first, second, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(12)[: rng.integers(0, 7)] for _ in range(11)]
    group, order = [0] * 6 + [3] * 5, np.array([*first, *(6 + i for i in second)])
    fields = {
        "repeated": rng.integers(0, 3, 11),
        "unknown": rng.integers(0, 3, 11),
        "asked_genes": np.full(11, 6),
    }
    rollouts = answers(rows, group, vocabulary=words, truth=np.zeros(11, int), **fields)
    moved = {name: value[order] for name, value in fields.items()}
    other = answers(
        [rows[i] for i in order], group, vocabulary=words, truth=np.zeros(11, int), **moved
    )
    for name in sorted(set(REWARDS) - {"bertscore", "function", "negative_mse"}):  # pairs: by place
        genes = {"genes": ["G0", "G1", "G5"]} if name == "kendall_tau" else {}
        reward = opened({"name": name, **genes}, real, words, encoder=Plain())
        np.testing.assert_allclose(reward(other), reward(rollouts)[order], rtol=1e-6, atol=1e-6)


# --- form and text ---------------------------------------------------------------------------------


def test_rewards_of_form_by_hand(answers, words):
    rollouts = answers(
        [[0, 1, 2, 3], [0, 1], [0, 1, 2], [0, 1, 2], [], [0]], vocabulary=words, asked_genes=np.array([4] * 5 + [0]),
        repeated=np.array([0, 0, 1, 0, 0, 0]), unknown=np.array([0, 0, 0, 3, 0, 0]),
    )  # fmt: skip
    expected = {
        "validity": [1, 0, 0, 0, 0],
        "length": [0, -0.5, 0, -0.5, -1],
        "repetition": [0, 0, -0.25, 0, 0],
        "unknown_genes": [0, 0, 0, -0.5, 0],
    }
    for name, values in expected.items():
        found = opened(name, None, words, inverse=None)(rollouts)
        assert found.dtype == np.float64
        assert found[:5].tolist() == values
        assert np.isnan(found[5])  # nothing was asked for


def test_bertscore_is_that_of_the_metric(answers, tmp_path, words):
    import torch
    import transformers

    from c2s.encoders.text import TransformerTextEncoder

    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"a beta cell alpha of islets".split(),
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer"})
    )
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=24, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(tmp_path)
    texts = ["a beta cell", "alpha of islets", "", "cell"]
    references = ["a beta cell", "a beta cell", "a beta cell", " "]
    rollouts = answers(None, texts=texts, references=references)
    reward = opened(
        {"name": "bertscore", "folder": ".", "layer": 2}, None, words, None, folder=tmp_path
    )
    found = reward(rollouts)
    encoder = TransformerTextEncoder(tmp_path, num_layers=2)
    np.testing.assert_array_equal(found[:3], bertscore(texts[:3], references[:3], encoder))
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert 0 < found[1] < 1
    assert found[2] == 0
    assert np.isnan(found[3])
    assert np.isnan(reward(answers(None, texts=texts))).all()


def test_rewards_of_cells_say_nothing_of_texts(answers, words, real):
    rollouts = answers(None, texts=["one", "two", "three"])
    for name in REWARDS:
        if name not in ("bertscore", "function", "kendall_tau"):
            assert np.isnan(opened(name, real, words, encoder=Plain())(rollouts)).all()
    tau = opened({"name": "kendall_tau", "genes": ["G1", "G2"]}, real, words)
    assert np.isnan(tau(rollouts)).all()


# --- recipes ---------------------------------------------------------------------------------------


class Recipe(Config):
    rewards: list[AnyReward]


def test_every_reward_is_under_its_name():
    for name, recipe in REWARDS.items():
        assert recipe.model_fields["name"].default == name
        assert all(field.description for field in recipe.model_fields.values())


def test_a_recipe_is_read_and_written():
    content = {"rewards": ["validity", {"name": "scfid", "weight": 0.5, "real_cells": 32}]}
    recipe = Recipe.parse(content, "r.yaml")
    assert [r.name for r in recipe.rewards] == ["validity", "scfid"]
    assert recipe.rewards[1].real_cells == 32
    assert Recipe.parse(recipe.model_dump(), "again") == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("energy", "rewards.0: there is no reward 'energy'; .*did you mean 'energy_distance'"),
        ({"weight": 2}, "rewards.0: a reward is a name, or a table with 'name'"),
        ({"name": "scfid", "real_cels": 4}, "rewards.0: scfid: unknown field 'real_cels'; did you mean 'real_cells'"),
        ({"name": "scfid", "real_cells": 1}, "rewards.0: scfid: real_cells = 1: input should be greater"),
        ({"name": "kendall_tau"}, "rewards.0: kendall_tau: kendall_tau needs a programme"),
        ({"name": "scfid", "sets": ["A"]}, "'gene_sets', a GMT file, and 'sets'"),
        ({"name": "scfid", "genes": ["A"], "gene_sets": "x"}, "either 'genes', or 'gene_sets'"),
        ({"name": "diversity", "encoder": "pca"}, "need distance: encoder"),
        ({"name": "bertscore"}, "bertscore: the field 'folder' is missing"),
        ({"name": "validity", "weight": float("nan")}, "validity: weight = nan"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_work_is_refused_in_one_line(reward, says):
    with pytest.raises(UsageError, match=says) as raised:
        Recipe.parse({"rewards": [reward]}, "r.yaml")
    assert "\n" not in str(raised.value)


def test_what_rewards_need_is_asked_for(words, real):
    with pytest.raises(
        UsageError, match=r"rewards.0 \(scfid\): compares with real cells, and there are none"
    ):
        opened("scfid", None, words)
    with pytest.raises(UsageError, match="needs the line from rank to expression"):
        opened("scfid", real, words, inverse=None)
    other = type(words).from_words([f"H{i}" for i in range(5)])
    with pytest.raises(UsageError, match="ranked among 12 genes, expected the 5 of the model"):
        opened("scfid", real, other)
    with pytest.raises(InputError, match="pca:6 or fewer"):
        opened("scfid", real, words)  # twenty components of seven cells
    tau = {"name": "kendall_tau", "genes": ["G1", "G2"]}
    with pytest.raises(
        UsageError, match=r"kendall_tau\): needs the model's line .*; give truth: rank"
    ):
        opened(tau, real, words, inverse=None)
    opened({**tau, "truth": "rank"}, real, words, inverse=None)
    in_space = {"diversity": False, "energy_distance": True, "validity": False}
    assert {name: read_reward(name).in_space for name in in_space} == in_space
    assert not read_reward({"name": "scfid", "encoder": "pca:3"}).in_space
    assert read_reward({"name": "bertscore", "folder": "b"}).reads == "texts"


def test_a_function_of_ones_own(answers, words, real, tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def first(rollouts):\n"
        "    return np.array([rollouts.cells.to_columns(i)[0] for i in range(len(rollouts))])\n"
        "def short(rollouts):\n"
        "    return np.zeros(2)\n"
        "number = 3\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")

    def own(function="first", file="own.py"):
        recipe = read_reward({"name": "function", "file": file, "function": function})
        return open_rewards([recipe], real, None, words, folder=tmp_path)[0].function

    rollouts = answers(real.cells.take([0, 3, 5]))
    expected = [real.cells.to_columns(row)[0] for row in (0, 3, 5)]
    assert own()(rollouts).tolist() == expected
    with pytest.raises(
        InputError, match=r"rewards.0 \(function\): short gave an array of shape \(2,\), .*\(3,\)"
    ):
        own("short")(rollouts)
    with pytest.raises(
        InputError, match=r"own.py has no function 'number'; there are: first, short"
    ):
        own("number")
    with pytest.raises(
        InputError, match=r"rewards.0 \(function\).file: .*nowhere.py: cannot be read"
    ):
        own(file="nowhere.py")
    with pytest.raises(
        InputError, match=r"broken.py: cannot be run \(ZeroDivisionError: division by zero\)"
    ):
        own(file="broken.py")


def test_genes_of_a_programme_that_the_model_lacks_are_named(answers, words, real):
    with pytest.warns(
        C2SWarning, match=r"kendall_tau\): 1 of 3 genes are not in .* left out: FOO1"
    ):
        opened({"name": "kendall_tau", "genes": ["G1", "FOO1", "G2"]}, real, words)


def test_rewards_are_added_by_weight(answers, words, real):
    recipes = [
        read_reward({"name": "validity", "weight": 2.0}),
        read_reward({"name": "scfid", "weight": 0.1, "encoder": "pca:2"}),
        read_reward({"name": "scfid", "weight": -3.0, "encoder": "pca:3"}),
    ]
    rng = np.random.default_rng(3)
    rows = [rng.permutation(12)[:6] for _ in range(8)]
    rollouts = answers(rows, [0] * 4 + [1] * 4, [0] * 4 + [-1] * 4, words)
    rewards = open_rewards(recipes, real, LINE, words)
    assert [r.name for r in rewards] == ["validity", "scfid", "scfid_2"]
    total, parts = combined(rewards, rollouts)
    two, three = (
        opened({"name": "scfid", "encoder": f"pca:{d}"}, real, words)(rollouts)[:4] for d in (2, 3)
    )
    np.testing.assert_allclose(total[:4], 2 + 0.1 * two - 3 * three)
    np.testing.assert_allclose(total[4:], 2)  # what says nothing is left out
    assert np.isnan(parts["scfid"][4:]).all()
    assert np.isnan(combined(rewards[1:], rollouts)[0][4:]).all()


def test_rollouts_that_do_not_fit_together_are_refused(answers, words):
    with pytest.raises(UsageError, match=r"rollouts.group: found numbers that fall"):
        answers([[0], [1]], [1, 0], vocabulary=words)
    with pytest.raises(UsageError, match=r"rollouts.truth: found 1, expected one an answer \(2\)"):
        answers([[0], [1]], vocabulary=words, truth=np.zeros(1, int))
    with pytest.raises(UsageError, match="group 4 asks for 2 conditions"):
        list(answers([[0], [1]], [4, 4], [0, 1], words).groups())


def test_a_label_is_right_or_wrong(answers):
    rollouts = answers(None, texts=["beta ", "alpha", ""], references=["beta", "beta", "beta"])
    assert form.match(rollouts).tolist() == [1.0, 0.0, 0.0]
