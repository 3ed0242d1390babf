"""BERTScore with encoders of the test's own, by hand; against the package in tests/encoders/test_text.py."""

import numpy as np
import pytest

from c2s.common.errors import InputError, UsageError
from c2s.metrics import BERTSCORE_SETTINGS, bertscore, bertscore_parts

RNG = np.random.default_rng(0)
WORDS = {word: RNG.normal(size=6) for word in "a beta alpha delta cell of the islets".split()}


def encode(texts):
    return [np.array([WORDS[w] for w in text.split()]) for text in texts]


def framed(texts):
    """As a BERT does it: special tokens around, which others may find and which do not look themselves."""
    edge = np.ones((1, 6))
    result = []
    for text in texts:
        words = [WORDS[w] for w in text.split()]
        vectors = np.concatenate([edge, np.array(words).reshape(-1, 6), edge])
        result.append((vectors, np.array([0.0, *[1.0] * len(words), 0.0])))
    return result


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def by_loops(candidate, reference, extra=()):
    mine, theirs = ([WORDS[w] for w in text.split()] for text in (candidate, reference))
    precision = np.mean([max(cosine(x, y) for y in [*theirs, *extra]) for x in mine])
    recall = np.mean([max(cosine(x, y) for x in [*mine, *extra]) for y in theirs])
    return precision, recall, 2 * precision * recall / (precision + recall)


CANDIDATES = ["a beta cell", "a cell of the islets", "delta", "the alpha cell"]
REFERENCES = ["a beta cell", "a beta cell", "beta alpha", "a cell of the islets"]


def test_equal_to_loops():
    found = bertscore_parts(CANDIDATES, REFERENCES, encode)
    expected = np.array([by_loops(*pair) for pair in zip(CANDIDATES, REFERENCES, strict=True)])
    np.testing.assert_allclose(np.stack([found.precision, found.recall, found.f1], 1), expected)
    np.testing.assert_array_equal(bertscore(CANDIDATES, REFERENCES, encode), found.f1)
    assert found.f1[0] == pytest.approx(1)


def test_tokens_without_weight_are_found_and_do_not_look():
    found = bertscore(CANDIDATES, REFERENCES, framed)
    edge = [np.ones(6)]
    expected = [by_loops(c, r, edge)[2] for c, r in zip(CANDIDATES, REFERENCES, strict=True)]
    np.testing.assert_allclose(found, expected)


def test_weights_are_shares():
    def weighted(texts):
        return [(vectors, np.arange(1.0, len(vectors) + 1)) for vectors in encode(texts)]

    found = bertscore_parts(["beta cell"], ["alpha"], weighted)
    similar = [cosine(WORDS[w], WORDS["alpha"]) for w in ("beta", "cell")]
    assert found.precision[0] == pytest.approx((similar[0] + 2 * similar[1]) / 3)
    assert found.recall[0] == pytest.approx(max(similar))


def test_swapping_the_sides_swaps_precision_and_recall():
    forth = bertscore_parts(CANDIDATES, REFERENCES, encode)
    back = bertscore_parts(REFERENCES, CANDIDATES, encode)
    np.testing.assert_allclose(forth.precision, back.recall)
    np.testing.assert_allclose(forth.f1, back.f1)


@pytest.mark.parametrize("encoder", [encode, framed])
@pytest.mark.parametrize("pair", [("", "a cell"), (" \n", "a cell"), ("a cell", ""), ("", "")])
def test_an_empty_text_scores_0(encoder, pair):
    found = bertscore_parts([pair[0], "a cell"], [pair[1], "a cell"], encoder)
    assert found.f1.tolist() == [0, pytest.approx(1)]
    assert found.precision[0] == found.recall[0] == 0


def test_a_text_of_which_only_special_tokens_are_left_scores_0():
    def nothing(texts):
        return [(np.ones((2, 3)), np.zeros(2)) for _ in texts]

    assert bertscore(["\u200b"], ["a"], nothing).tolist() == [0]
    assert bertscore(
        ["\u200b"], ["a"], lambda texts: [np.ones((0, 3)) for _ in texts]
    ).tolist() == [0]


def test_no_pairs_and_many_pairs():
    assert bertscore([], [], encode).shape == (0,)
    many = bertscore(CANDIDATES * 150, REFERENCES * 150, encode)
    np.testing.assert_array_equal(many.reshape(150, 4), np.tile(many[:4], (150, 1)))
    np.testing.assert_allclose(many[:4], bertscore(CANDIDATES, REFERENCES, encode))


def test_settings_of_the_paper_by_name():
    assert BERTSCORE_SETTINGS["biobert"]["model"] == "dmis-lab/biobert-v1.1"
    assert BERTSCORE_SETTINGS["biobert"]["num_layers"] == 9
    assert BERTSCORE_SETTINGS["roberta-large"]["num_layers"] == 17
    for settings in BERTSCORE_SETTINGS.values():
        assert settings["idf"] is False
        assert settings["rescale"] is False


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda texts: [np.ones((2, 3))], "1 results for 2 texts"),
        (lambda texts: [np.ones((1, 3)), np.ones((1, 4))], "different width"),
        (lambda texts: [np.ones(3)] * 2, r"shape \(3,\)"),
        (lambda texts: [np.zeros((1, 3))] * 2, "is 0 or not finite"),
        (lambda texts: [np.full((1, 3), np.nan)] * 2, "is 0 or not finite"),
        (lambda texts: [(np.ones((1, 3)), np.array([-1.0]))] * 2, "weight is below 0"),
        (lambda texts: [(np.ones((2, 3)), np.ones(3))] * 2, r"weights of shape \(3,\)"),
    ],
)
def test_encoders_that_do_not_keep_to_it_are_refused(encoder, message):
    with pytest.raises(InputError, match=message):
        bertscore(["a"], ["beta"], encoder)


def test_texts_that_are_not_pairs_are_refused():
    with pytest.raises(InputError, match="2 candidates and 1 references"):
        bertscore(["a", "a"], ["a"], encode)
    with pytest.raises(UsageError, match="single text"):
        bertscore("a", "a", encode)
