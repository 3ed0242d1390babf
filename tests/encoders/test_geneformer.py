"""GeneformerEncoder against a slow tokenizer and transformers' own models, on folders laid out as published."""

import collections
import contextlib
import copy
import itertools
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.encoders.base import encode_cells
from c2s.encoders.geneformer import GeneformerEncoder
from c2s.encoders.plain_pickle import read_table

#: The published repository: a model of each series, and where its dictionaries are.
SERIES = {
    "V1": ("Geneformer-V1-10M", "geneformer/gene_dictionaries_30m", "_gc30M"),
    "V2": ("Geneformer-V2-104M", "geneformer", "_gc104M"),
}
SPECIAL = {"V1": ["<pad>", "<mask>"], "V2": ["<pad>", "<mask>", "<cls>", "<eos>"]}
POSITIONS = {"V1": 300, "V2": 260}
#: Square roots of primes: counts, being whole, never tie over two different medians.
MEDIANS = np.sqrt([2.0, 3, 5, 7, 11, 13, 17])


def ensembl(i):
    return f"ENSG{i:011d}"


@pytest.fixture(scope="module")
def counts(pancreas):
    return sp.csr_matrix(pancreas.X[::60])


@pytest.fixture(scope="module")
def vocabulary(pancreas):
    return GeneVocabulary.from_var(pancreas.var)


@pytest.fixture(scope="module")
def expression(counts):
    return normalised(counts)


def normalised(counts):
    totals = np.asarray(counts.sum(axis=1), dtype=float)
    scaled = sp.csr_matrix(counts.multiply(1e4 / totals), dtype=np.float64)
    scaled.data = np.log10(1 + scaled.data)
    return scaled


@pytest.fixture(scope="module")
def tables(counts, vocabulary):
    """Dictionaries of 500 genes of the pancreas, some far up and some far down; two symbols are one gene."""
    by_total = np.argsort(-np.asarray(counts.sum(axis=0)).ravel(), kind="stable")
    columns = np.concatenate([by_total[:300], by_total[600:4600:20]])
    symbols = [vocabulary.symbols[c] for c in np.random.default_rng(0).permutation(columns)]
    ids = [ensembl(i) for i in range(len(symbols))]
    medians = {gene: MEDIANS[i % len(MEDIANS)] for i, gene in enumerate(ids)}
    names = dict(zip(symbols, ids, strict=True))
    # The second symbol is an alias of the first: their counts are added. A median of its own keeps it from ties.
    names[symbols[1]] = ids[0]
    medians[ids[0]] = np.sqrt(19.0)
    # The third symbol leads to a retired id.
    names[symbols[2]] = ensembl(999)
    return ids, medians, names, {ensembl(999): ids[2], **{gene: gene for gene in ids}}


def write(folder, tables, series):
    """Write the dictionaries of a series, as pickles with NumPy's numbers (V1) or Python's (V2)."""
    ids, medians, names, mapping = tables
    _, place, corpus = SERIES[series]
    place = folder / place
    place.mkdir(parents=True, exist_ok=True)
    tokens = {word: i for i, word in enumerate([*SPECIAL[series], *ids])}
    if series == "V2":
        medians = {gene: float(median) for gene, median in medians.items()}
    for stem, table in (
        ("token_dictionary", tokens),
        ("gene_median_dictionary", medians),
        ("gene_name_id_dict", names),
        ("ensembl_mapping_dict", mapping),
    ):
        (place / f"{stem}{corpus}.pkl").write_bytes(pickle.dumps(table))


def make_network(n_tokens, positions, cls=BertForMaskedLM, **changes):
    config = BertConfig(
        vocab_size=n_tokens,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        initializer_range=0.3,
        **changes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls(config).eval()


@pytest.fixture(scope="module")
def repository(tmp_path_factory, tables):
    """The whole repository, with models of both series."""
    folder = tmp_path_factory.mktemp("published") / "Geneformer"
    for series, (name, _, _) in SERIES.items():
        write(folder, tables, series)
        n_tokens = len(tables[0]) + len(SPECIAL[series])
        make_network(n_tokens, POSITIONS[series]).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def encoders(repository):
    return {s: GeneformerEncoder.from_folder(repository / SERIES[s][0]) for s in SERIES}


@pytest.fixture
def tiny(tmp_path):
    """A V1 model of three genes with its dictionaries beside it, to be broken."""
    tokens = {"<pad>": 0, "<mask>": 1, ensembl(1): 4, ensembl(2): 2, ensembl(3): 3}
    medians = {ensembl(1): 2.0, ensembl(2): 2.0, ensembl(3): 0.25}
    names = {"A": ensembl(1), "Bb": ensembl(2), "C1orf1": ensembl(3)}
    make_network(5, 8).save_pretrained(tmp_path)
    for stem, table in (
        ("token_dictionary", tokens),
        ("gene_median_dictionary", medians),
        ("gene_name_id_dict", names),
    ):
        (tmp_path / f"{stem}.pkl").write_bytes(pickle.dumps(table))
    return tmp_path


def slow_tokens(counts, vocabulary, tables, series):
    """Tokens of each cell from its counts, one gene after another, as the paper's methods say."""
    ids, medians, names, mapping = tables
    token = {gene: i + len(SPECIAL[series]) for i, gene in enumerate(ids)}
    gene_of = [mapping.get(names.get(symbol)) for symbol in vocabulary.symbols]
    result = []
    for row in counts.toarray():
        total = collections.Counter()
        for gene, count in zip(gene_of, row.tolist(), strict=True):
            if gene is not None and count:
                total[gene] += count
        ranked = sorted(
            total, key=lambda g: (-total[g] / row.sum() * 10_000 / medians[g], token[g])
        )
        most = POSITIONS[series] - (2 if series == "V2" else 0)
        found = [token[gene] for gene in ranked[:most]]
        result.append([2, *found, 3] if series == "V2" else found)
    return result


def by_hand(repository, series, tokens, pooling, layer):
    """The states of transformers' own model, one cell at a time and so without padding."""
    network = BertForMaskedLM.from_pretrained(repository / SERIES[series][0]).eval()
    places = []
    for cell in tokens:
        with torch.no_grad():
            states = network(torch.tensor([cell]), output_hidden_states=True).hidden_states[layer][
                0
            ]
        genes = states[1:-1] if series == "V2" else states
        places.append((genes.mean(0) if pooling == "mean" else states[0]).numpy())
    return np.stack(places)


# --- tokens


def test_tokens_by_hand(tiny):
    """Counts 1, 1, 1 over medians 2, 2, ¼ are ½, ½, 4; the tie goes by token id, and tokens are 4, 2, 3."""
    encoder = GeneformerEncoder.from_folder(tiny)
    vocabulary = GeneVocabulary(["A", "unknown", "Bb", "C1orf1"])
    expression = normalised(
        sp.csr_matrix([[1.0, 6, 1, 1], [3, 0, 2, 1], [0, 0, 9, 1], [5, 5, 0, 0]])
    )
    found = [cell.tolist() for cell in encoder.prepare(expression, vocabulary)]
    assert found == [[3, 2, 4], [3, 4, 2], [2, 3], [4]]


@pytest.mark.parametrize("series", SERIES)
def test_tokens_are_those_of_a_slow_tokenizer(encoders, expression, counts, vocabulary, tables, series):  # fmt: skip
    expected = slow_tokens(counts, vocabulary, tables, series)
    lengths = [len(cell) for cell in expected]
    assert max(lengths) == POSITIONS[series]  # some are cut
    assert min(lengths) < POSITIONS[series]  # and some are not
    found = [cell.tolist() for cell in encoders[series].prepare(expression, vocabulary)]
    assert found == expected


def test_float32_gives_the_same_tokens_but_for_near_ties(encoders, expression, vocabulary):
    exact = encoders["V1"].prepare(expression, vocabulary)
    single = encoders["V1"].prepare(expression.astype(np.float32), vocabulary)
    assert all(set(a) == set(b) for a, b in zip(exact, single, strict=True))
    assert np.mean(np.concatenate(exact) == np.concatenate(single)) > 0.999


def test_genes_are_found_by_id_symbol_and_word(tiny):
    genes = GeneformerEncoder.from_folder(tiny).genes
    by_id = GeneVocabulary([f"{ensembl(1)}.7", ensembl(3).lower(), ensembl(77)])
    assert genes.find(by_id)[1].tolist() == [4, 3]
    # Two genes with one symbol: the id behind the second word tells them apart.
    twins = GeneVocabulary([ensembl(9), ensembl(2)], ["A", "A"])
    assert twins.words == ("A", f"A_{ensembl(2)}")
    for vocabulary in (twins, GeneVocabulary.from_words(twins.words)):
        columns, tokens, medians = genes.find(vocabulary)
        assert (columns.tolist(), tokens.tolist(), medians.tolist()) == ([0, 1], [4, 2], [2, 2])
    # Words are in upper case, symbols of the dictionary need not be.
    assert genes.find(GeneVocabulary.from_words(["C1ORF1", "BB", "X"]))[1].tolist() == [3, 2]


def test_a_gene_without_a_median_is_unknown(tiny):
    medians = {ensembl(1): 2.0, ensembl(3): float("nan")}
    (tiny / "gene_median_dictionary.pkl").write_bytes(pickle.dumps(medians))
    genes = GeneformerEncoder.from_folder(tiny).genes
    assert genes.find(GeneVocabulary(["Bb", "A", "C1orf1"]))[0].tolist() == [1]


# --- places


@pytest.mark.parametrize("layer", [-2, -1, 1])
@pytest.mark.parametrize(("series", "pooling"), [("V1", "mean"), ("V2", "cls"), ("V2", "mean")])
def test_places_are_those_of_the_published_model(
    repository, expression, counts, vocabulary, tables, series, pooling, layer
):
    encoder = GeneformerEncoder.from_folder(
        repository / SERIES[series][0], layer=layer, pooling=pooling, batch_size=7
    )
    tokens = slow_tokens(counts, vocabulary, tables, series)
    expected = by_hand(repository, series, tokens, pooling, layer)
    found = encoder.encode(expression, vocabulary)
    assert found.dtype == np.float64
    assert found.shape == (len(tokens), encoder.n_dimensions)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found, axis=0).min() > 1e-3  # places differ, so that equality says something


def test_defaults_are_the_published_ones(encoders, repository, expression, vocabulary):
    """The last layer but one; <cls> for V2, the mean for V1."""
    assert {s: e.pooling for s, e in encoders.items()} == {"V1": "mean", "V2": "cls"}
    for series, encoder in encoders.items():
        explicit = GeneformerEncoder.from_folder(
            repository / SERIES[series][0], layer=-2, pooling=encoder.pooling
        )
        assert explicit.digest() == encoder.digest()
        assert explicit.n_dimensions == 24


@pytest.mark.parametrize("series", SERIES)
def test_neither_batch_nor_order_of_genes_matters(encoders, expression, vocabulary, series):
    encoder = encoders[series]
    together = encode_cells(encoder, expression, vocabulary)
    assert together.encoder == f"geneformer-{encoder.digest()[:16]}"
    alone = encoder.encode(expression[5:6], vocabulary)
    np.testing.assert_allclose(alone[0], together.points[5], atol=1e-5)
    order = np.random.default_rng(1).permutation(len(vocabulary))
    shuffled = GeneVocabulary([vocabulary.names[i] for i in order])
    found = encoder.encode(expression[:, order], shuffled)
    np.testing.assert_allclose(found, together.points, atol=1e-6)


def test_no_cells_are_no_places(encoders, expression, vocabulary):
    assert encoders["V1"].encode(expression[:0], vocabulary).shape == (0, 24)


def test_a_classifier_is_read_without_its_head(tiny, repository):
    vocabulary, cell = GeneVocabulary(["A", "Bb"]), normalised(sp.csr_matrix([[1.0, 2]]))
    network = make_network(5, 8, BertForSequenceClassification, num_labels=3)
    network.save_pretrained(tiny)
    with torch.no_grad():
        states = network.bert(torch.tensor([[2, 4]]), output_hidden_states=True).hidden_states[-2]
    found = GeneformerEncoder.from_folder(tiny).encode(cell, vocabulary)
    np.testing.assert_allclose(found[0], states[0].mean(0).numpy(), atol=1e-6)


def test_can_be_trained_on(encoders, expression, vocabulary):
    encoder = encoders["V2"]
    inputs = encoder.prepare(expression[:4], vocabulary)
    points = encoder.forward(inputs)
    points.square().sum().backward()
    gradient = encoder.network.embeddings.word_embeddings.weight.grad
    assert gradient[inputs[0].tolist()].abs().sum(dim=1).min() > 0
    encoder.network.zero_grad()
    before = encoder.encode(expression[:4], vocabulary)
    np.testing.assert_allclose(points.detach().numpy(), before, atol=1e-6)
    other = copy.copy(encoder)
    other.network = copy.deepcopy(encoder.network)
    with torch.no_grad():
        other.network.embeddings.word_embeddings.weight.mul_(2)
    other.network.train()
    # Dropout is off while it encodes, and on again after.
    twice = [other.encode(expression[:4], vocabulary) for _ in range(2)]
    assert other.network.training
    assert (twice[0] == twice[1]).all()
    assert np.abs(twice[0] - before).max() > 1e-3
    np.testing.assert_array_equal(encoder.encode(expression[:4], vocabulary), before)
    assert other.digest() != encoder.digest()


def test_digest_tells_what_decides_a_place(tiny):
    def digest(**options):
        return GeneformerEncoder.from_folder(tiny, **options).digest()

    first = digest()
    assert digest(batch_size=3) == first
    assert digest(layer=-1) != first
    names = tiny / "gene_name_id_dict.pkl"
    table = read_table(names)
    names.write_bytes(pickle.dumps(dict(reversed(table.items()))))
    assert digest() == first
    names.write_bytes(pickle.dumps({**table, "D": ensembl(1)}))
    assert digest() != first
    names.write_bytes(pickle.dumps(table))
    medians = tiny / "gene_median_dictionary.pkl"
    medians.write_bytes(pickle.dumps({**read_table(medians), ensembl(1): 2.5}))
    assert digest() != first


# --- dictionaries


def test_dictionaries_of_a_series_go_with_its_model(encoders):
    """Both are in one repository, and are told apart by the number of tokens."""
    assert not encoders["V1"].genes.has_special
    assert encoders["V2"].genes.has_special
    assert encoders["V1"].max_tokens == 300


def test_dictionaries_may_be_elsewhere(tiny, tmp_path_factory):
    expected = GeneformerEncoder.from_folder(tiny).digest()
    away = tmp_path_factory.mktemp("dictionaries")
    for file in tiny.glob("*.pkl"):
        shutil.move(file, away)
    with pytest.raises(InputError, match=r"found no token_dictionary\*.pkl with 5 tokens as the"):
        GeneformerEncoder.from_folder(tiny)
    assert GeneformerEncoder.from_folder(tiny, dictionaries=away).digest() == expected


def test_dictionaries_of_another_series_are_refused(tiny):
    path = tiny / "token_dictionary.pkl"
    path.write_bytes(pickle.dumps({**read_table(path), ensembl(4): 5}))
    with pytest.raises(InputError, match=r"with 5 tokens as the model has \(.* has 6 tokens\)"):
        GeneformerEncoder.from_folder(tiny)


def test_two_corpora_that_fit_are_told(tiny):
    shutil.copy(tiny / "token_dictionary.pkl", tiny / "token_dictionary_gc95M.pkl")
    with pytest.raises(UsageError, match=r"token_dictionary.pkl, token_dictionary_gc95M.pkl fit"):
        GeneformerEncoder.from_folder(tiny)


def test_a_json_file_is_taken_first(tiny):
    expected = GeneformerEncoder.from_folder(tiny).digest()
    for path in tiny.glob("*.pkl"):
        path.with_suffix(".json").write_text(json.dumps(read_table(path)))
        path.write_bytes(b"no pickle")
    assert GeneformerEncoder.from_folder(tiny).digest() == expected
    for path in tiny.glob("*.pkl"):
        path.unlink()
    assert GeneformerEncoder.from_folder(tiny).digest() == expected
    (tiny / "token_dictionary.json").write_text("{")
    with pytest.raises(InputError, match=r"token_dictionary.json: not valid JSON"):
        GeneformerEncoder.from_folder(tiny)


class Runs:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Calls:
    """Calls anything when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_does_something_is_refused_and_runs_nothing(tiny, tmp_path, protocol):
    mark = tmp_path / "mark"
    content = pickle.dumps({"<pad>": Runs(mark)}, protocol)
    pickle.loads(content)
    assert mark.exists()  # it does run where pickles are trusted
    mark.unlink()
    (tiny / "token_dictionary.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"token_dictionary.pkl: the file names .* is not unpickled; ") as caught:  # fmt: skip
        GeneformerEncoder.from_folder(tiny)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        Calls(eval, "1"),
        Calls(getattr, "", "upper"),
        Calls(np.dtype, "O"),
        Calls(np.dtype, [("a", "f8")]),
        Calls(np.dtype, "S5"),
        np.array([1.0]),
        np.str_("a"),
        collections.OrderedDict(a=1),
        len,  # not print: libraries that other tests load put their own in its place
    ],
    ids=lambda value: getattr(value, "call", value).__class__.__name__,
)
def test_only_texts_and_numbers_are_built(tmp_path, value):
    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps({"a": value}))
    with pytest.raises(InputError, match=r"table.pkl: the file (names|holds) .*write it as table.json"):  # fmt: skip
        read_table(path)


def test_a_forged_number_is_refused(tmp_path):
    """The maker of NumPy's scalars, called with something else than a type and bytes."""
    path = tmp_path / "table.pkl"
    maker = np.float64(1).__reduce__()[0]
    for arguments in ((1, b"12345678"), (np.dtype("f8"), 5), (np.dtype("f8"), b"123")):
        path.write_bytes(pickle.dumps({"a": Calls(maker, *arguments)}))
        with pytest.raises(InputError, match=r"table.pkl: "):
            read_table(path)


@pytest.mark.parametrize(
    "kind", ["f2", "f4", "f8", ">f8", "i1", "i2", "i4", "i8", ">i4", "u1", "u8", "bool"]
)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_numbers_of_numpy_are_read(tmp_path, kind, protocol):
    value = np.array([1.5, 100]).astype(kind)[1]
    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps({"a": value, "b": value}, protocol))
    found = read_table(path)
    assert found == {"a": value.item(), "b": value.item()}
    assert type(found["a"]) is type(value.item())


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text() | st.integers(), PLAIN), st.integers(3, 5))
def test_plain_tables_come_back_as_they_are(tmp_path_factory, table, protocol):
    path = tmp_path_factory.getbasetemp() / "plain.pkl"
    path.write_bytes(pickle.dumps(table, protocol))
    assert read_table(path) == table


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_a_broken_file_is_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "broken.pkl"
    path.write_bytes(content)
    message = f"{path}: "
    with contextlib.suppress(InputError):
        assert isinstance(read_table(path), dict)
        return
    with pytest.raises(InputError, match=re.escape(message)):
        read_table(path)


@pytest.mark.parametrize(
    ("stem", "table", "message"),
    [
        ("token_dictionary", {"a": "1"}, r"found 'a': '1', expected a text with a whole number"),
        ("token_dictionary", {"a": True}, r"found 'a': True, expected a text with a whole number"),
        ("token_dictionary", {"a": -1}, r"found 'a': -1, expected a text with a whole number ≥ 0"),
        ("token_dictionary", {1: 1}, r"found 1: 1, expected a text"),
        ("token_dictionary", {"a": 4}, r"found no token '<pad>'"),
        ("token_dictionary", {"<pad>": 4, "a": 4}, r"found one token for several genes"),
        ("token_dictionary", [1], r"found a list, expected a dictionary"),
        ("gene_median_dictionary", {"a": "1"}, r"found 'a': '1', expected a text with a number"),
        ("gene_name_id_dict", {"a": 1}, r"found 'a': 1, expected a text with a text"),
    ],
)
def test_dictionaries_of_another_kind_are_told(tiny, stem, table, message):
    (tiny / f"{stem}.pkl").write_bytes(pickle.dumps(table))
    with pytest.raises(InputError, match=rf"{stem}.pkl: {message}"):
        GeneformerEncoder.from_folder(tiny)


def test_files_that_are_not_there(tiny):
    (tiny / "token_dictionary.pkl").write_text("version https://git-lfs.github.com/spec/v1\noid")
    with pytest.raises(InputError, match=r"token_dictionary.pkl: found a Git LFS pointer"):
        GeneformerEncoder.from_folder(tiny)
    (tiny / "token_dictionary.pkl").unlink()
    (tiny / "token_dictionary.pkl").mkdir()
    with pytest.raises(InputError, match=r"token_dictionary.pkl: cannot be read"):
        GeneformerEncoder.from_folder(tiny)


def test_medians_must_be_there(tiny):
    (tiny / "gene_median_dictionary.pkl").unlink()
    with pytest.raises(InputError, match=r"gene_median_dictionary.pkl: is missing; it belongs to"):
        GeneformerEncoder.from_folder(tiny)


def test_without_symbols_ids_are_enough(tiny):
    (tiny / "gene_name_id_dict.pkl").unlink()
    encoder = GeneformerEncoder.from_folder(tiny)
    cell = normalised(sp.csr_matrix([[1.0, 3]]))
    (tokens,) = encoder.prepare(cell, GeneVocabulary([ensembl(1), ensembl(2)]))
    assert tokens.tolist() == [2, 4]
    with pytest.raises(InputError, match="none of the 2 genes of the cells"):
        encoder.prepare(cell, GeneVocabulary(["A", "Bb"]))


# --- weights


def test_weights_without_safetensors_are_read_as_tensors_only(tiny):
    expected = GeneformerEncoder.from_folder(tiny).digest()
    (tiny / "model.safetensors").unlink()
    torch.save(make_network(5, 8).state_dict(), tiny / "pytorch_model.bin")
    assert GeneformerEncoder.from_folder(tiny).digest() == expected
    mark = tiny / "mark"
    torch.save({"bert.embeddings": Runs(mark)}, tiny / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be read as a Geneformer model"):
        GeneformerEncoder.from_folder(tiny)
    assert not mark.exists()


def test_folders_that_hold_no_geneformer(tiny, tmp_path_factory):
    with pytest.raises(InputError, match="found no folder"):
        GeneformerEncoder.from_folder(tiny / "nowhere")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match="cannot be read as a Geneformer model") as caught:
        GeneformerEncoder.from_folder(empty)
    assert "\n" not in str(caught.value)
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=5)).save_pretrained(empty)
    with pytest.raises(InputError, match="found a model of type 'gpt2', expected 'bert'"):
        GeneformerEncoder.from_folder(empty)


def test_weights_that_do_not_fit_are_told(tiny):
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny / "model.safetensors")
    lost = {k: v for k, v in weights.items() if "layer.1.output.dense.weight" not in k}
    save_file(lost, tiny / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights are missing .*layer.1.output.dense.weight"):
        GeneformerEncoder.from_folder(tiny)
    wide = {k: torch.zeros(7, 7) if "layer.1.output.dense.weight" in k else v for k, v in weights.items()}  # fmt: skip
    save_file(wide, tiny / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 weights are missing or of another shape"):
        GeneformerEncoder.from_folder(tiny)


# --- what cannot work


def test_options_that_cannot_work(tiny):
    for options, message in (
        ({"pooling": "cls"}, r"pooling: found 'cls', and the model has no token <cls>"),
        ({"pooling": "max"}, r"pooling: found 'max', expected 'mean' or 'cls'"),
        ({"batch_size": 0}, r"batch_size: found 0"),
        ({"layer": 0}, r"layer: found 0, expected 1 to 3"),
        ({"layer": 4}, r"layer: found 4, expected 1 to 3"),
        ({"layer": -4}, r"layer: found -4, expected 1 to 3"),
        ({"device": "abacus"}, r"device='abacus' is unknown"),
    ):
        with pytest.raises(UsageError, match=message):
            GeneformerEncoder.from_folder(tiny, **options)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.0, 0.0], r"1 cells express none of the model's genes \(the first in row 1\)"),
        ([np.nan, 1.0], r"cell 1, gene A is nan"),
        ([-1.0, 1.0], r"cell 1, gene A is -1"),
        ([40.0, 1.0], r"found a value of 40, expected log10\(1 \+ counts per 10,000\)"),
    ],
)
def test_cells_that_cannot_be_placed(tiny, row, message):
    encoder = GeneformerEncoder.from_folder(tiny)
    with pytest.raises(InputError, match=message):
        encoder.encode(sp.csr_matrix([[1.0, 1.0], row]), GeneVocabulary(["A", "Bb"]))


def test_genes_that_do_not_fit(tiny):
    encoder = GeneformerEncoder.from_folder(tiny)
    cell = sp.csr_matrix([[1.0, 1.0]])
    with pytest.raises(InputError, match="found 2 columns and 1 gene names"):
        encoder.encode(cell, GeneVocabulary(["A"]))
    many = GeneVocabulary(["A", *(f"G{i}" for i in range(9))])
    with pytest.warns(C2SWarning, match="only 1 of the 10 genes of the cells are among the 3 of"):
        encoder.encode(sp.csr_matrix(np.ones((1, 10))), many)


def test_equal_profiles_lie_at_one_place(encoders, expression, vocabulary):
    rows = [3, 3, 0, 3]
    points = encoders["V2"].encode(expression[rows], vocabulary)
    for a, b in itertools.combinations((0, 1, 3), 2):
        np.testing.assert_allclose(points[a], points[b], atol=1e-6)
    assert np.abs(points[0] - points[2]).max() > 1e-3


def test_it_can_be_trained_further_with_a_head(encoders, expression, vocabulary):
    """A frozen and a fine-tuned head on V1; the encoder that was given stays as it is."""
    from c2s.baselines import EncoderHead, FineTunedHead

    encoder = next(iter(encoders.values())) if isinstance(encoders, dict) else encoders[0]
    labels = np.array(["a", "b"])[np.arange(expression.shape[0]) % 2]
    before = encoder.digest()
    head = EncoderHead(encoder, vocabulary).fit(expression, labels)
    tuned = FineTunedHead(encoder, vocabulary, epochs=2, learning_rate=1e-3, seed=0)
    tuned.fit(expression, labels)
    for each in (head, tuned):
        shares = each.predict_proba(expression)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
        assert shares.shape == (len(labels), 2)
    assert len(tuned.losses_) > 0
    assert encoder.digest() == before
