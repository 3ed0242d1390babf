"""Classification heads on real pancreas cells, and on encoders made of one matrix."""

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import LogisticRegression

from c2s.baselines.heads import EncoderHead, FineTunedHead, _rate
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.encoders.pca import PCAEncoder
from c2s.encoders.scgpt import ScGPTArguments, ScGPTEncoder
from c2s.encoders.scgpt_network import ScGPTNetwork


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def split(cut, cut_genes):
    """Cells of five types in some 130 genes: 100 to train, 50 to test, and the genes."""
    columns = GeneVocabulary(list(cut.var_names)).columns(cut_genes.words)
    counts = sp.csr_matrix(cut.X, dtype=np.float64)
    scaled = sp.csr_matrix(counts.multiply(1e4 / counts.sum(axis=1)))[:, columns]
    scaled.data = np.log10(1 + scaled.data)
    labels = cut.obs["cell_type"].astype(str).to_numpy()
    test = np.arange(len(labels)) % 3 == 0
    return scaled[~test], labels[~test], scaled[test], labels[test], cut_genes


def random_scgpt(vocabulary, seed=0, dropout=0.1, n_layers=2):
    """A small scGPT that was never trained."""
    vocab = {word: i for i, word in enumerate(["<pad>", "<cls>", *vocabulary.words])}
    arguments = ScGPTArguments(embsize=32, nheads=4, d_hid=32, nlayers=n_layers, dropout=dropout)
    torch.manual_seed(seed)
    network = ScGPTNetwork(
        n_tokens=len(vocab), n_dimensions=32, n_heads=4, n_hidden=32, n_layers=n_layers, dropout=dropout, pad_id=0
    )  # fmt: skip
    return ScGPTEncoder(network.eval(), arguments, vocab, "random")


class LinearEncoder:
    """Expression times a matrix. Its inputs are dense rows; it notes what it is asked for."""

    name = "linear"
    n_dimensions = 3

    def __init__(self, n_genes):
        self.network = torch.nn.Linear(n_genes, 3)
        self.asked = []

    def encode(self, expression, vocabulary):
        with torch.no_grad():
            return self.forward(self.prepare(expression, vocabulary)).numpy().astype(np.float64)

    def prepare(self, expression, vocabulary):
        return list(expression.toarray().astype(np.float32))

    def forward(self, inputs):
        self.asked.append((self.network.training, len(inputs)))
        return self.network(torch.from_numpy(np.array(inputs)))

    def digest(self):
        return "0" * 64


def accuracy(head, test, labels):
    probability = head.predict_proba(test)
    assert probability.shape == (len(labels), len(head.classes_))
    assert probability.dtype == np.float64
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    predicted = head.predict(test)
    np.testing.assert_array_equal(head.classes_[probability.argmax(axis=1)], predicted)
    return np.mean(predicted == labels)


# On a frozen encoder.


def test_frozen_head_equals_scikit_learn_on_scaled_places(split):
    train, labels, test, truth, genes = split
    encoder = PCAEncoder(8).fit(train, genes)
    head = EncoderHead(encoder, genes, inverse_penalty=0.5).fit(train, labels)
    places, others = encoder.encode(train, genes), encoder.encode(test, genes)
    mean, spread = places.mean(axis=0), places.std(axis=0)
    model = LogisticRegression(C=0.5, max_iter=1000).fit((places - mean) / spread, labels)
    expected = model.predict_proba((others - mean) / spread)
    np.testing.assert_allclose(head.predict_proba(test), expected, atol=1e-9)
    np.testing.assert_array_equal(head.classes_, np.unique(labels))
    assert head.name == "pca_head"
    assert accuracy(head, test, truth) > 0.9


def test_a_linear_probe_finds_types_in_an_untrained_scgpt(split):
    train, labels, test, truth, genes = split
    head = EncoderHead(random_scgpt(genes), genes).fit(train, labels)
    assert head.name == "scgpt_head"
    assert accuracy(head, test, truth) > 0.5  # chance is 0.2


# Trained together with the encoder.


@pytest.mark.parametrize(("hidden_layers", "low"), [(0, 0.8), (2, 0.5)])  # chance is 0.2
def test_training_the_network_finds_types_and_leaves_the_encoder(split, hidden_layers, low):
    train, labels, test, truth, genes = split
    encoder = random_scgpt(genes, dropout=0, n_layers=1)
    before = copy.deepcopy(encoder.network.state_dict())
    places = encoder.encode(test, genes)
    head = FineTunedHead(
        encoder, genes, epochs=16, learning_rate=3e-3, batch_size=8, hidden_layers=hidden_layers
    )
    head.fit(train, labels)
    assert head.name == "scgpt_fine_tuned"
    assert head.losses_.shape == (16 * 13,)
    assert head.losses_[-13:].mean() < 0.5 * head.losses_[:13].mean()
    assert accuracy(head, test, truth) > low
    assert all(torch.equal(before[name], w) for name, w in encoder.network.state_dict().items())
    assert not encoder.network.training
    assert all(weight.grad is None for weight in encoder.network.parameters())
    np.testing.assert_array_equal(encoder.encode(test, genes), places)


def test_the_same_seed_repeats_and_global_draws_are_left(split):
    train, labels, test, _, genes = split
    encoder = random_scgpt(genes)

    def fit(seed):
        head = FineTunedHead(encoder, genes, epochs=1, learning_rate=1e-3, seed=seed)
        return head.fit(train, labels).predict_proba(test)

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = fit(0)
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(fit(0), first)
    assert np.abs(fit(1) - first).max() > 1e-3


def test_only_the_classifier_learns_where_the_encoder_is_kept(split):
    train, labels, _, _, genes = split
    encoder = LinearEncoder(len(genes))
    settings = {"epochs": 30, "learning_rate": 0.02, "batch_size": 32}
    kept = FineTunedHead(encoder, genes, train_encoder=False, **settings).fit(train, labels)
    # Places are found once, not in training.
    assert encoder.asked == [(False, 32), (False, 32), (False, 32), (False, 4)]
    tuned = FineTunedHead(encoder, genes, **settings).fit(train, labels)
    assert tuned.losses_[0] == pytest.approx(kept.losses_[0], rel=1e-5)  # the same start
    assert tuned.losses_[-10:].mean() < 0.7 * kept.losses_[-10:].mean()


def test_each_epoch_takes_each_cell_once_in_training_and_never_after(split):
    train, labels, test, _, genes = split
    encoder = LinearEncoder(len(genes))
    head = FineTunedHead(encoder, genes, epochs=2, batch_size=48).fit(train, labels)
    assert encoder.asked == [(True, 48), (True, 48), (True, 4)] * 2
    first, second = np.concatenate(head._batches(100)[:3]), np.concatenate(head._batches(100)[3:])
    np.testing.assert_array_equal(np.sort(first), np.arange(100))
    np.testing.assert_array_equal(np.sort(second), np.arange(100))
    assert (first != second).any()
    encoder.asked.clear()
    head.predict(test)
    assert encoder.asked == [(False, 48), (False, 2)]


def test_the_first_step_is_that_of_adamw():
    cells = sp.csr_matrix(np.array([[1.0, 0], [0, 2]]))
    encoder = LinearEncoder(2)
    head = FineTunedHead(
        encoder, GeneVocabulary(["A", "B"]), epochs=1, learning_rate=0.1, batch_size=2, weight_decay=0.5
    )  # fmt: skip
    head.fit(cells, np.array(["b", "a"]))
    # The first step of Adam moves each weight by the rate, against the sign of its gradient.
    before, after = (n.weight.detach().numpy() for n in (encoder.network, head._tuned.network))
    moved = after - before * (1 - 0.1 * 0.5)
    np.testing.assert_allclose(np.abs(moved), 0.1, rtol=1e-3)
    probability = head.predict_proba(cells)
    assert head.losses_[0] > -np.log(probability[[0, 1], [1, 0]]).mean()


def test_the_rate_rises_in_a_tenth_of_the_steps_and_falls_to_zero():
    rates = [_rate(step, 20) for step in range(20)]
    np.testing.assert_allclose(rates[:3], [0.5, 1, 1])
    np.testing.assert_allclose(np.diff(rates[2:]), -1 / 18)
    assert rates[-1] == pytest.approx(1 / 18)
    assert _rate(0, 1) == 1


# What is refused.


@pytest.mark.parametrize("kind", [EncoderHead, FineTunedHead])
def test_wrong_use_is_refused(split, kind):
    train, labels, test, _, genes = split
    head = kind(LinearEncoder(len(genes)), genes)
    with pytest.raises(UsageError, match="fit"):
        head.predict(test)
    with pytest.raises(InputError, match="one label per cell"):
        head.fit(train, labels[:-1])
    with pytest.raises(InputError, match="only the label 'beta'"):
        head.fit(train, np.array(["beta"] * len(labels)))
    with pytest.raises(InputError, match=f"found 5 genes, expected the {len(genes)} genes"):
        head.fit(train[:, :5], labels)
    with pytest.raises(InputError, match="found 5 genes"):
        head.fit(train, labels).predict(test[:, :5])


def test_parameters_that_cannot_work_are_refused(split):
    train, labels, _, _, genes = split
    encoder = LinearEncoder(len(genes))
    with pytest.raises(UsageError, match="inverse_penalty"):
        EncoderHead(encoder, genes, inverse_penalty=0)
    for change in (
        {"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0}, {"hidden_layers": -1}, {"weight_decay": -1},
        {"device": "abacus"},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=next(iter(change))):
            FineTunedHead(encoder, genes, **change)
    with pytest.raises(UsageError, match="pca: is no encoder with a network"):
        FineTunedHead(PCAEncoder(3), genes)
    with torch.no_grad():
        encoder.network.weight[:] = torch.inf
    with pytest.raises(InputError, match="loss of step 1 is nan; lower learning_rate"):
        FineTunedHead(encoder, genes).fit(train, labels)
