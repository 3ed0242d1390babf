"""Trees of answers: every step of every answer is asked once, after its own beginning and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.common.errors import InputError
from c2s.constraints.answers import AnswerTree, answer_trees, common_beginning

ANSWERS = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple),
    min_size=1, max_size=25, unique=True,
)  # fmt: skip


def logs(beginning, token):
    """A made-up log p of a token behind a beginning, different for each."""
    return -float(hash((*beginning, "then", token)) % 1009) / 100


def beginnings(tree):
    """What each row has read, by what it sees: the rows on its way, in order of depth."""
    found = []
    for row in range(len(tree)):
        way = sorted(np.flatnonzero(tree.sees[row]), key=lambda r: tree.depth[r])
        assert way[0] == 0
        assert way[-1] == row
        assert [tree.depth[r] for r in way] == list(range(len(way)))
        found.append(tuple(int(tree.token[r]) for r in way[1:]))
    return found


def scores(answers, tree):
    read = beginnings(tree)
    steps = [
        logs(read[row], int(token))
        for row, token in zip(tree.step_row, tree.step_token, strict=True)
    ]
    return tree.totals(np.array([steps, np.multiply(2, steps)]))


class TestTree:
    def test_by_hand(self):
        tree = AnswerTree([[5, 6, 0], [5, 7, 0], [8, 0], [5, 6]])
        read = beginnings(tree)
        assert sorted(read) == [(), (5,), (5, 6), (5, 7), (8,)]
        asked = sorted(
            (read[r], int(t)) for r, t in zip(tree.step_row, tree.step_token, strict=True)
        )
        assert asked == [
            ((), 5), ((), 8), ((5,), 6), ((5,), 7), ((5, 6), 0), ((5, 7), 0), ((8,), 0),
        ]  # fmt: skip

    @settings(max_examples=150, deadline=None)
    @given(ANSWERS)
    def test_an_answer_is_the_sum_of_its_own_steps(self, answers):
        tree = AnswerTree(answers)
        wanted = [sum(logs(a[:i], a[i]) for i in range(len(a))) for a in answers]
        np.testing.assert_allclose(scores(answers, tree), [wanted, np.multiply(2, wanted)])
        read = beginnings(tree)
        assert len(set(read)) == len(read)  # nothing is read twice
        assert set(read) == {a[:i] for a in answers for i in range(len(a))}

    @pytest.mark.parametrize(
        ("answers", "said"),
        [([], "no answers"), ([[1], []], "has no tokens"), ([[1, 2], [1, 2]], "the same tokens")],
    )
    def test_lists_that_cannot_be(self, answers, said):
        with pytest.raises(InputError, match=said):
            AnswerTree(answers)
        with pytest.raises(InputError, match=said):
            answer_trees(answers, 10)


class TestTrees:
    @settings(max_examples=150, deadline=None)
    @given(ANSWERS, st.integers(1, 20))
    def test_every_answer_is_in_one_tree_that_is_small_enough(self, answers, most):
        trees = answer_trees(answers, most)
        assert sorted(i for which, _ in trees for i in which) == list(range(len(answers)))
        for which, tree in trees:
            assert len(tree) <= most or len(which) == 1
            wanted = [
                sum(logs(answers[i][:k], answers[i][k]) for k in range(len(answers[i])))
                for i in which
            ]
            np.testing.assert_allclose(scores(answers, tree)[0], wanted)

    @settings(max_examples=50, deadline=None)
    @given(ANSWERS)
    def test_no_more_trees_than_it_takes(self, answers):
        whole = len({a[:i] for a in answers for i in range(len(a))})
        assert len(answer_trees(answers, whole)) == 1


@given(ANSWERS)
def test_what_all_begin_with(answers):
    n = common_beginning([np.array(answer) for answer in answers])
    assert 0 <= n < min(map(len, answers))
    assert len({answer[:n] for answer in answers}) == 1
    longer = {answer[: n + 1] for answer in answers}
    assert len(longer) > 1 or n == min(map(len, answers)) - 1
