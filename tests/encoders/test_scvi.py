"""The scVI encoder is scvi-tools' own encoder, repeats for a seed, leaves nothing behind and runs no code of a file."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from c2s.cells.preprocess import log10_normalized
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.encoders.base import encoder_id
from c2s.encoders.scvi import ScviEncoder
from c2s.encoders.scvi_tools import import_scvi, latent_posterior, train_scvi


@pytest.fixture(scope="module")
def scvi():
    try:
        return import_scvi()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def counts(cut):
    """Counts of 150 pancreas cells over the 600 genes with most counts."""
    most = np.sort(np.argsort(-np.asarray(cut.X.sum(axis=0)).ravel())[:600])
    return cut.X[:, most].tocsr(), GeneVocabulary.from_var(cut.var.iloc[most])


@pytest.fixture(scope="module")
def encoder(counts, scvi):
    return ScviEncoder.fit(*counts, genes="hvg 300", max_epochs=60, seed=0, device="cpu")


@pytest.fixture(scope="module")
def make_model(scvi, counts):
    """Return a function that trains a model with scvi-tools itself, for one epoch."""
    import warnings

    from anndata import AnnData

    def make(folder=None, cls="SCVI", **options):
        import pandas as pd
        import torch

        cells = AnnData(counts[0].copy(), var=pd.DataFrame(index=list(counts[1].words)))
        cells.obs["batch"] = ["one", "two", "three"] * 50
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            model_class = getattr(scvi.model, cls)
            model_class.setup_anndata(cells, batch_key="batch")
            model = model_class(cells, **options)
            model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False)
            if folder is not None:
                model.save(folder, overwrite=True)
        return model

    return make


def test_it_is_the_latent_mean_of_scvi_tools(counts):
    matrix, vocabulary = counts
    # Every cell has the counts that all cells are scaled to, so there is nothing to scale.
    total = np.asarray(matrix.sum(axis=1)).ravel()
    level = np.floor(matrix.toarray() * (5000 / total[:, None]))
    level[:, 0] += 5000 - level.sum(axis=1)
    level = sp.csr_matrix(level)
    model = train_scvi(level, max_epochs=3, seed=0, device="cpu")
    encoder = ScviEncoder.fit(level, vocabulary, genes=None, max_epochs=3, seed=0, device="cpu")
    assert encoder.library_size_ == 5000
    means, variances = latent_posterior(model)
    assert (variances > 0).all()
    assert means.std(axis=0).min() > 0.01
    np.testing.assert_allclose(
        encoder.encode(log10_normalized(level), vocabulary), means, atol=2e-4
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_layers": 2, "n_hidden": 32, "n_latent": 5},
        {"use_layer_norm": "both", "use_batch_norm": "none"},
        {"log_variational": False, "use_layer_norm": "encoder", "use_batch_norm": "decoder"},
        {"use_layer_norm": "encoder", "gene_likelihood": "nb", "dispersion": "gene-batch"},
    ],
    ids=["default", "two layers", "layer norm", "no log", "both norms"],
)
def test_saved_models_of_scvi_tools_are_read(tmp_path, make_model, counts, options):
    matrix, vocabulary = counts
    model = make_model(tmp_path / "saved", **options)
    encoder = ScviEncoder.load(tmp_path / "saved", library_size=3000.0)
    assert encoder.vocabulary_ == vocabulary
    assert encoder.n_dimensions == options.get("n_latent", 10)
    total = np.asarray(matrix.sum(axis=1))
    # The same scaling, by hand, into scvi-tools' own function.
    scaled = model.adata.copy()
    scaled.X = sp.csr_matrix(matrix.multiply(3000 / total))
    ours = encoder.encode(log10_normalized(matrix), vocabulary)
    with pytest.warns(UserWarning, match="unnormalized count data"):
        theirs = model.get_latent_representation(scaled)
    assert theirs.std(axis=0).min() > 0
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())


def test_it_tells_types_apart(encoder, counts, cut):
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    matrix, vocabulary = counts
    points = encoder.encode(log10_normalized(matrix), vocabulary)
    assert points.shape == (150, 10)
    assert points.dtype == np.float64
    labels = cut.obs["cell_type"].astype(str).to_numpy()
    assert cross_val_score(KNeighborsClassifier(5), points, labels).mean() > 0.85


def test_a_cell_lies_where_its_proportions_say_whatever_its_depth_company_and_column_order(
    encoder, counts, cut
):
    matrix, vocabulary = counts
    expression = log10_normalized(matrix)
    points = encoder.encode(expression, vocabulary)
    np.testing.assert_allclose(encoder.encode(expression[7:9], vocabulary), points[7:9], atol=1e-10)
    order = np.random.default_rng(0).permutation(len(vocabulary))
    mixed = GeneVocabulary.from_words([vocabulary.words[c] for c in order])
    np.testing.assert_allclose(encoder.encode(expression[:, order], mixed), points, atol=1e-10)
    # Normalised over all 20,125 genes instead of 600, each cell has another scale and the same proportions.
    whole = encoder.encode(log10_normalized(cut.X), GeneVocabulary.from_var(cut.var))
    np.testing.assert_allclose(whole, points, atol=1e-4)
    empty = encoder.encode(expression[:1] * 0, vocabulary)
    assert np.isfinite(empty).all()


def test_training_repeats_for_a_seed_and_leaves_random_states_folders_and_streams_alone(
    counts, scvi, tmp_path, monkeypatch, capfd, recwarn
):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    digests = []
    for seed, other in ((0, 1), (0, 2), (1, 3)):
        random.seed(other)
        torch.manual_seed(other)
        np.random.seed(other)  # noqa: NPY002
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002  # fmt: skip
        options = {"genes": "hvg 200", "max_epochs": 2, "seed": seed, "device": "cpu"}
        encoder = ScviEncoder.fit(*counts, **options)
        encoder.encode(log10_normalized(counts[0]), counts[1])
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002  # fmt: skip
        assert before == after
        digests.append(encoder.digest())
    assert digests[0] == digests[1] != digests[2]
    assert scvi.settings.seed is None
    assert torch.backends.cudnn.benchmark
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in recwarn] == []


def test_saving_keeps_everything(encoder, counts, tmp_path):
    encoder.save(tmp_path / "encoder")
    encoder.save(tmp_path / "encoder")  # replaces itself
    again = ScviEncoder.load(tmp_path / "encoder")
    assert again.digest() == encoder.digest()
    assert encoder_id(again).startswith("scvi-")
    assert again.vocabulary_.symbols == encoder.vocabulary_.symbols
    expression = log10_normalized(counts[0])
    np.testing.assert_array_equal(
        again.encode(expression, counts[1]), encoder.encode(expression, counts[1])
    )
    with pytest.raises(UsageError, match="leave out library_size"):
        ScviEncoder.load(tmp_path / "encoder", library_size=10)
    other = ScviEncoder(encoder.network, encoder.vocabulary_, encoder.library_size_ + 1)
    assert other.digest() != encoder.digest()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        encoder.save(tmp_path / "mine")


class Hostile:
    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ("touch hacked",)


def test_no_code_of_a_file_is_run(tmp_path, make_model, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    make_model("saved")
    stored = torch.load("saved/model.pt", weights_only=False)

    def load(function, key, place):
        changed = {**stored, key: place(Hostile(function))}
        torch.save(changed, "saved/model.pt")
        return ScviEncoder.load("saved", library_size=1000)

    # Beside what is needed it becomes an empty object; in its place, or from a module of the system, it is an error.
    beside = {"key": "attr_dict", "place": lambda evil: {**stored["attr_dict"], "history_": evil}}
    assert load(subprocess.getoutput, **beside).n_dimensions == 10
    with pytest.raises(InputError, match=r"weight z_encoder\..* is missing"):
        load(subprocess.getoutput, "model_state_dict", lambda evil: evil)
    with pytest.raises(InputError, match="cannot be read as a model that scvi-tools saved"):
        load(os.system, **beside)
    assert os.listdir(tmp_path) == ["saved"]


def test_models_that_are_something_else_are_refused(tmp_path, make_model, encoder):
    make_model(tmp_path / "plain")
    with pytest.raises(UsageError, match="library_size"):
        ScviEncoder.load(tmp_path / "plain")
    with pytest.raises(UsageError, match="library_size: found -1"):
        ScviEncoder.load(tmp_path / "plain", library_size=-1)
    with pytest.raises(InputError, match="found 2 genes, expected the 600"):
        ScviEncoder.load(tmp_path / "plain", library_size=1, vocabulary=GeneVocabulary(["A", "B"]))
    ids = GeneVocabulary.from_words([f"GENE{i}" for i in range(600)])
    named = ScviEncoder.load(tmp_path / "plain", library_size=1, vocabulary=ids)
    assert named.vocabulary_ == ids
    make_model(tmp_path / "covariates", encode_covariates=True)
    with pytest.raises(InputError, match="encode_covariates"):
        ScviEncoder.load(tmp_path / "covariates", library_size=1000)
    make_model(tmp_path / "ln", latent_distribution="ln")
    with pytest.raises(InputError, match="latent_distribution"):
        ScviEncoder.load(tmp_path / "ln", library_size=1000)
    make_model(tmp_path / "linear", cls="LinearSCVI")
    with pytest.raises(InputError, match="class LinearSCVI, expected SCVI"):
        ScviEncoder.load(tmp_path / "linear", library_size=1000)
    with pytest.raises(InputError, match="found neither"):
        ScviEncoder.load(tmp_path)
    encoder.save(tmp_path / "broken")
    (tmp_path / "broken" / "scvi_encoder.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InputError, match="cannot be read as a saved scVI encoder"):
        ScviEncoder.load(tmp_path / "broken")


def test_batches_and_panels_of_genes(counts, scvi):
    matrix, vocabulary = counts
    batch = np.array(["one", "two"] * 75)
    panel = vocabulary.words[10:200]
    options = {"max_epochs": 1, "n_latent": 3, "n_layers": 2, "device": "cpu"}
    encoder = ScviEncoder.fit(matrix, vocabulary, batch=batch, genes=panel, **options)
    assert encoder.vocabulary_.words == panel
    assert encoder.encode(log10_normalized(matrix), vocabulary).shape == (150, 3)
    without = ScviEncoder.fit(matrix, vocabulary, genes=panel, **options)
    assert without.digest() != encoder.digest()
    everything = ScviEncoder.fit(matrix, vocabulary, genes="hvg 5000", **options)
    assert everything.vocabulary_ == vocabulary
    # A last batch of one cell would break batch normalisation; cells without counts are left out.
    odd = sp.vstack([matrix[:129], matrix[:1] * 0]).tocsr()
    assert ScviEncoder.fit(odd, vocabulary, genes=None, **options).library_size_ == np.median(
        np.asarray(matrix[:129].sum(axis=1))
    )


def test_the_most_variable_genes_are_chosen_each_batch_counting(scvi):
    rng = np.random.default_rng(0)
    rate = np.full((60, 400), 3.0)
    rate[::2, 20:24], rate[1::2, 20:24] = 6, 0.1  # vary between cells
    rate[:30, 50:54], rate[30:, 50:54] = 6, 0.1  # differ between two batches only
    matrix = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    vocabulary = GeneVocabulary([f"G{i}" for i in range(400)])
    options = {"genes": "hvg 4", "max_epochs": 1, "device": "cpu"}
    batch = np.array(["one"] * 30 + ["two"] * 30)
    encoder = ScviEncoder.fit(matrix, vocabulary, batch=batch, **options)
    assert encoder.vocabulary_.words == ("G20", "G21", "G22", "G23")
    together = ScviEncoder.fit(matrix, vocabulary, **{**options, "genes": "hvg 8"})
    both = {f"G{i}" for i in (20, 21, 22, 23, 50, 51, 52, 53)}
    assert (
        len(both & set(together.vocabulary_.words)) >= 7
    )  # genes of like mean are ranked together, by 20 bins


def test_wrong_use_is_refused(encoder, counts, monkeypatch):
    matrix, vocabulary = counts
    for genes in ("hvg", "hvg 0", "variable"):
        with pytest.raises(UsageError, match="expected 'hvg 2000'"):
            ScviEncoder.fit(matrix, vocabulary, genes=genes)
    with pytest.raises(InputError, match="cell 0 has the value .* expected raw counts"):
        ScviEncoder.fit(log10_normalized(matrix), vocabulary)
    with pytest.raises(InputError, match="found 5 columns and 600 gene names"):
        ScviEncoder.fit(matrix[:, :5], vocabulary)
    with pytest.raises(InputError, match="one batch per cell"):
        ScviEncoder.fit(matrix, vocabulary, batch=np.array(["a"]))
    with pytest.raises(InputError, match="found 2 cells with counts, expected at least 3"):
        ScviEncoder.fit(matrix[:2], vocabulary, genes=None)
    with pytest.raises(UsageError, match="n_latent: found 0"):
        ScviEncoder.fit(matrix, vocabulary, genes=None, n_latent=0)
    with pytest.raises(InputError, match="none of the 2 genes"):
        encoder.encode(sp.csr_matrix((1, 2)), GeneVocabulary(["QQ1", "QQ2"]))
    for bad in (np.nan, -1.0, np.inf):
        broken = log10_normalized(matrix)
        broken.data[:] = bad
        with pytest.raises(InputError, match="NaN, infinite or negative"):
            encoder.encode(broken, vocabulary)
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(UsageError, match=r"scvi-tools is not installed; .*c2s-toolkit\[scvi\]"):
        ScviEncoder.fit(matrix, vocabulary, genes=None, device="cpu")
    # Encoding does not need it.
    assert encoder.encode(log10_normalized(matrix[:2]), vocabulary).shape == (2, 10)
