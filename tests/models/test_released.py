"""Released checkpoints: known by their name, asked in the words and tokens of their authors, with the data's genes.

The checkpoints are small and of random weights, with the real tokenizers. The wording is invented here; where the
`cell2sentence` package is installed, its own is compared too.
"""

import importlib.util
import json
import shutil
import sys
import warnings

import anndata as ad
import numpy as np
import pytest
import torch

import c2s
from c2s.cells.vocabulary import GeneVocabulary
from c2s.cli import main as cli
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.decoding.prompts import label_prompts
from c2s.models.directory import load_model
from c2s.models.released import find_profile, load_wording, profiles
from c2s.tasks.registry import TASKS
from c2s.tasks.single_cell import CELL_TYPE
from c2s.tokens.tokenizer import CellTokenizer, load_tokenizer

HUMAN = "Homo sapiens"
LABELS = ["beta cell", "acinar cell of the pancreas", "T cell"]
TYPE = "The {num_genes} first genes of a {organism} cell.\nCell: {cell_sentence}.\nIts type is:"
CELL = "Write {num_genes} genes of a {organism} cell of type {cell_type}.\nCell:"
#: A checkpoint of each tokenizer: its architecture, and how its name ends.
KINDS = {
    "neox": ("gpt-neox", "gpt_neox", "C2S-Pythia-410m-diverse-single-and-multi-cell-tasks"),
    "gemma": ("gemma", "gemma2", "C2S-Scale-Gemma-2-2B"),
}
K = 12


@pytest.fixture(scope="session")
def wording(tmp_path_factory):
    """A folder with the invented wording."""
    folder = tmp_path_factory.mktemp("wording")
    for task, prompt, response in (
        ("cell_type", TYPE, "{cell_type}."),
        ("cond_cell", CELL, "{cell_sentence}."),
    ):
        (folder / f"{task}.toml").write_text(
            f"prompts = [{json.dumps(prompt)}]\nresponse = {json.dumps(response)}\n"
        )
    return str(folder)


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory, real_tokenizers, make_network):
    """Return a function that gives a folder as the hub has it: weights, tokenizer, no c2s.json."""
    made = {}

    def make(kind):
        if kind not in made:
            files, architecture, name = KINDS[kind]
            backend = load_tokenizer(real_tokenizers / files)
            tokenizer = CellTokenizer(backend, GeneVocabulary([]), "text")
            network = make_network(architecture, tokenizer, hidden=16, context=2048)
            folder = tmp_path_factory.mktemp(kind) / name
            network.save_pretrained(folder)
            tokenizer.save(folder)
            made[kind] = folder
        return made[kind]

    return make


@pytest.fixture(scope="session", params=list(KINDS))
def folder(request, make_folder):
    return make_folder(request.param)


@pytest.fixture(scope="session")
def released(folder, wording):
    return load_model(folder, prompts=wording, device="cpu")


@pytest.fixture
def few(cut):
    """Three cells in few genes; the last expresses fewer than K of them."""
    genes = np.flatnonzero(np.asarray((cut.X[:3] > 0).sum(0)).ravel() == 3)[:40]
    few = cut[:3, genes].copy()
    counts = few.X.tolil()
    counts[2, 5:] = 0
    few.X = counts.tocsr()
    return few


def texts_of(adata, prompt=TYPE):
    """The prompts that a person would write; the number of genes is K, as the authors' code says."""
    cells = c2s.pp.cell_sentences(adata, top_k=K)
    fields = {"num_genes": K, "organism": HUMAN}
    return [prompt.format(cell_sentence=cells.sentence(i), **fields) for i in range(len(cells))]


def one_line(error, *said):
    message = str(error.value)
    assert "\n" not in message
    for part in said:
        assert part in message
    return message


class TestProfiles:
    def test_are_those_that_were_released(self):
        assert sorted(profiles()) == sorted(
            [
                "C2S-Pythia-410m-cell-type-prediction",
                "C2S-Pythia-410m-cell-type-conditioned-cell-generation",
                "C2S-Pythia-410m-diverse-single-and-multi-cell-tasks",
                "C2S-Scale-Pythia-1b-pt",
                "C2S-Scale-Gemma-2-2B",
                "C2S-Scale-Gemma-2-27B",
                "pythia-160m-c2s",
            ]
        )
        for profile in profiles().values():
            assert set(profile.tasks) <= set(TASKS)
            assert profile.begin == (profile.architecture == "gemma2")

    def test_no_two_share_a_name(self):
        names = [alias.casefold() for p in profiles().values() for alias in p.names]
        assert len(names) == len(set(names))


class TestFamily:
    @pytest.fixture
    def place(self, tmp_path):
        """Return a function that makes a folder with a config.json and perhaps a model card."""

        def make(name, card="", model_type="gpt_neox", **config):
            folder = tmp_path / name
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(json.dumps({"model_type": model_type, **config}))
            if card:
                (folder / "README.md").write_text(card)
            return folder

        return make

    @pytest.mark.parametrize("name", list(profiles()))
    def test_is_told_by_the_hub_id_and_by_the_folder(self, place, name):
        kind = profiles()[name].architecture
        elsewhere = place("snapshot", model_type=kind)
        assert find_profile(elsewhere, f"vandijklab/{name}") == name
        folder = place(name.lower(), model_type=kind)
        assert find_profile(folder, f"{folder}/") == name
        cached = place(f"models--vandijklab--{name}/snapshots/0a1b", model_type=kind)
        assert find_profile(cached, str(cached)) == name

    def test_is_told_by_the_model_card(self, place):
        card = (
            "---\nbase_model: vandijklab/C2S-Scale-Pythia-1b-pt\n---\n# Overview\nThis is the C2S-Pythia-410m-cell-type-"
            "prediction model, like C2S-Scale-1B.\n"
        )
        folder = place("copy", card)
        assert find_profile(folder, str(folder)) == "C2S-Pythia-410m-cell-type-prediction"
        gemma = place("two", "# C2S-Scale-Gemma-2B model card\n", "gemma2")
        assert find_profile(gemma, str(gemma)) == "C2S-Scale-Gemma-2-2B"

    def test_a_longer_name_is_another_model(self, place):
        folder = place("mine", "# my-C2S-Scale-1B-finetuned\n")
        assert find_profile(folder, str(folder)) is None

    def test_the_head_of_a_card_tells_nothing(self, place):
        folder = place("mine", "---\nbase_model: vandijklab/C2S-Scale-Pythia-1b-pt\n---\n# Mine\n")
        assert find_profile(folder, str(folder)) is None

    def test_is_told_by_the_model_it_was_made_from(self, place):
        folder = place("tuned", _name_or_path="vandijklab/C2S-Scale-Pythia-1b-pt")
        assert find_profile(folder, str(folder)) == "C2S-Scale-Pythia-1b-pt"

    def test_named_by_the_user_it_wins(self, place):
        folder = place("C2S-Scale-Pythia-1b-pt")
        named = "vandijklab/c2s-pythia-410m-cell-type-prediction"
        assert find_profile(folder, str(folder), named) == "C2S-Pythia-410m-cell-type-prediction"

    @pytest.mark.parametrize("name", list(profiles()))
    def test_any_of_its_names_will_do_for_a_copy_under_another_name(self, place, name):
        folder = place("my copy", model_type=profiles()[name].architecture)
        for alias in profiles()[name].names:
            assert find_profile(folder, str(folder), f"vandijklab/{alias}/") == name
            assert find_profile(folder, str(folder), alias.lower()) == name

    def test_a_name_that_is_none_is_answered_with_the_nearest(self, place):
        folder = place("x")
        with pytest.raises(UsageError) as error:
            find_profile(folder, "x", "C2S-Scale-Gemma-2-9B")
        one_line(error, "there is no profile", "nearest: C2S-Scale-Gemma-2-2B")

    def test_another_architecture_is_refused(self, place):
        folder = place("C2S-Scale-Pythia-1b-pt", model_type="llama")
        with pytest.raises(InputError) as error:
            find_profile(folder, str(folder))
        one_line(error, "'llama'", "'gpt_neox'", "profile=")

    def test_a_broken_configuration_is_refused(self, place):
        folder = place("C2S-Scale-Pythia-1b-pt")
        (folder / "config.json").write_text("{")
        with pytest.raises(InputError) as error:
            find_profile(folder, str(folder))
        one_line(error, "config.json: not valid JSON")

    def test_an_unknown_layout_gets_one_line(self, place):
        folder = place("something", "# Something\n")
        with pytest.raises(InputError) as error:
            load_model(folder)
        one_line(error, "c2s.json is missing", "C2S-Scale-Gemma-2-27B", "c2s.attach")


class TestWording:
    @pytest.fixture
    def without_package(self, monkeypatch):
        from c2s.tasks.prompts import load_prompts

        load_prompts.cache_clear()
        monkeypatch.setattr("c2s.tasks.prompts.find_spec", lambda name: None)
        yield
        load_prompts.cache_clear()

    def test_without_the_package_one_line_says_what_to_install(self, without_package, make_folder):
        with pytest.raises(UsageError) as error:
            load_model(make_folder("neox"), device="cpu")
        one_line(error, "cell2sentence is not installed", "pip install", "prompts=FOLDER")

    def test_the_older_family_needs_a_file(self, wording):
        with pytest.raises(UsageError) as error:
            load_wording("pythia-160m-c2s")
        one_line(error, "a wording of its own", "prompts=FOLDER")
        assert sorted(load_wording("pythia-160m-c2s", wording).tasks) == ["cell_type", "cond_cell"]

    def test_one_for_other_tasks_is_refused(self, wording, tmp_path):
        shutil.copy(f"{wording}/cond_cell.toml", tmp_path)
        with pytest.raises(InputError) as error:
            load_wording("C2S-Pythia-410m-cell-type-prediction", str(tmp_path))
        one_line(error, "no wording for a task of", "cell_type")

    def test_one_that_hides_the_cell_is_refused(self, tmp_path):
        (tmp_path / "cell_type.toml").write_text('prompts = ["What?"]\nresponse = "{cell_type}."')
        with pytest.raises(InputError) as error:
            load_wording("C2S-Pythia-410m-cell-type-prediction", str(tmp_path))
        one_line(error, "lacks {cell_sentence}")


class TestModel:
    def test_says_what_is_known(self, released, folder):
        assert released.any_gene
        assert "any genes" in repr(released)
        assert released.card.released.profile == folder.name
        assert released.card.tasks == ["cell_type", "cond_cell"]
        assert released.known("organism") == [HUMAN, "Mus musculus"]
        assert released.known("cell_type") == []
        assert released.card.top_k == (1000 if "Gemma" in folder.name else 200)

    def test_is_loaded_from_the_hub(self, make_folder, wording, monkeypatch, tmp_path):
        copy = shutil.copytree(make_folder("neox"), tmp_path / "0a1b2c")
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(copy))
        name = "C2S-Pythia-410m-cell-type-prediction"
        model = load_model(f"vandijklab/{name}", prompts=wording, device="cpu")
        assert model.card.released.profile == name
        assert model.card.tasks == ["cell_type"]
        with pytest.raises(UsageError, match="not trained on generation"):
            c2s.tl.generate(model, "beta", genes=["INS"], organism=HUMAN)

    def test_takes_genes_and_shares_weights(self, released):
        model = released.with_genes(["Ins", "GCG", "INS", "C10orf10"])
        assert model.vocabulary.words == ("INS", "GCG", "C10ORF10")
        assert model.network is released.network
        assert released.any_gene
        assert not model.any_gene
        with pytest.raises(UsageError, match="a vocabulary of its own"):
            model.with_genes(["INS"])
        with pytest.raises(UsageError, match="found none"):
            released.with_genes([])
        with pytest.raises(UsageError, match="a list of names"):
            released.with_genes("INS")

    def test_a_local_copy_under_another_name(self, make_folder, wording, tmp_path):
        copy = shutil.copytree(make_folder("neox"), tmp_path / "downloads-3")
        with pytest.raises(InputError) as error:
            load_model(copy, prompts=wording, device="cpu")
        one_line(error, "profile=", *profiles())
        model = load_model(copy, profile="C2S-Scale-1B", prompts=wording, device="cpu")
        assert model.card.released.profile == "C2S-Scale-Pythia-1b-pt"

    def test_genes_can_be_given_when_it_is_loaded(self, make_folder, wording):
        model = load_model(make_folder("neox"), genes=["INS", "GCG"], prompts=wording, device="cpu")
        assert model.vocabulary.words == ("INS", "GCG")

    @pytest.mark.parametrize("genes", [None, ["INS", "C10orf10"]])
    def test_is_saved_with_how_it_is_asked(self, make_folder, wording, tmp_path, genes):
        model = load_model(make_folder("neox"), genes=genes, prompts=wording, device="cpu")
        model.save(tmp_path / "saved")
        again = load_model(tmp_path / "saved", device="cpu")
        assert again.any_gene == (genes is None)
        assert again.vocabulary.symbols == tuple(genes or ())
        assert again.card.model_copy(update={"versions": {}}) == model.card
        with pytest.raises(UsageError, match="leave out profile"):
            load_model(tmp_path / "saved", profile="C2S-Scale-Gemma-2-2B")

    def test_a_tokenizer_that_cannot_begin_is_refused(self, make_folder, wording, tmp_path):
        folder = shutil.copytree(make_folder("neox"), tmp_path / "C2S-Scale-Gemma-2-2B")
        for name, changes in (
            ("config.json", {"model_type": "gemma2"}),
            ("tokenizer_config.json", {"bos_token": None}),
        ):
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**content, **changes}))
        with pytest.raises(InputError) as error:
            load_model(folder, prompts=wording, device="cpu")
        one_line(error, "beginning-of-text")

    def test_a_model_trained_here_is_asked_as_before(self, make_model, gene_tokenizer):
        model = make_model(gene_tokenizer)
        segments = ["Cell: ", np.array([0, 3], dtype=np.int32), " is"]
        assert model.encode_prompt(segments).tolist() == model.tokenizer.encode(segments).tolist()
        assert model.end_ids == [model.tokenizer.eos_id]
        assert model.stated_genes(3, 9) == 3


class TestVerbs:
    def test_the_network_reads_what_the_authors_tokenizer_makes_of_the_text(self, released, few):
        from c2s.analysis.cells import cells_for_model, opened_for

        model = opened_for(few.var, released)
        cells = cells_for_model(few, model, top_k=K)
        assert cells.lengths[2] < K
        organism = {"organism": np.full(3, HUMAN, dtype=object)}
        prompts = label_prompts(model, CELL_TYPE, cells, organism, np.arange(3), top_k=K)
        expected = model.tokenizer.backend(texts_of(few))["input_ids"]
        assert [prompt.tolist() for prompt in prompts] == expected

    def test_annotation_is_the_exact_probability_of_each_label(self, released, few):
        with warnings.catch_warnings():
            warnings.simplefilter("error", C2SWarning)
            c2s.tl.annotate(few, released, LABELS, organism=HUMAN, top_k=K, probabilities_key="p")
        backend = released.tokenizer.backend
        logs = np.empty((3, len(LABELS)))
        for i, text in enumerate(texts_of(few)):
            prompt = backend(text)["input_ids"]
            for j, label in enumerate(LABELS):
                answer = backend(f" {label}.", add_special_tokens=False)["input_ids"]
                if "Gemma" not in released.card.released.profile:
                    answer = [*answer, backend.eos_token_id]
                with torch.no_grad():
                    logits = released.network(torch.tensor([prompt + answer])).logits[0]
                steps = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
                logs[i, j] = steps[range(len(answer)), answer].sum()
        expected = np.exp(logs - logs.max(1, keepdims=True))
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(few.obsm["p"].to_numpy(), expected, atol=1e-4)
        assert list(few.obs["c2s_cell_type"]) == [LABELS[j] for j in expected.argmax(1)]

    def test_embedding_is_the_mean_over_the_authors_tokens(self, released, few):
        c2s.tl.embed(few, released, organism=HUMAN, top_k=K)
        expected = []
        for text in texts_of(few):
            ids = torch.tensor([released.tokenizer.backend(text)["input_ids"]])
            with torch.no_grad():
                states = released.network(ids, output_hidden_states=True).hidden_states[-1]
            expected.append(states[0].mean(0).numpy())
        np.testing.assert_allclose(few.obsm["X_c2s"], np.stack(expected), atol=1e-4)

    def test_embedding_over_the_cell_leaves_out_what_begins_the_prompt(self, released, few):
        c2s.tl.embed(few, released, organism=HUMAN, top_k=K, tokens="cell")
        for text, found in zip(texts_of(few), few.obsm["X_c2s"], strict=True):
            encoded = released.tokenizer.backend(text, return_offsets_mapping=True)
            begin, end = text.index("Cell: ") + 6, text.index(".\nIts type")
            inside = [b > begin and a < end for a, b in encoded["offset_mapping"]]
            with torch.no_grad():
                states = released.network(
                    torch.tensor([encoded["input_ids"]]), output_hidden_states=True
                ).hidden_states[-1][0]
            np.testing.assert_allclose(found, states[torch.tensor(inside)].mean(0), atol=1e-4)

    def test_the_deletion_test_asks_in_the_words_of_the_explanation(self, released, few):
        """Prompts state K; with another than the model's own the label was as probable as when it was explained."""
        given = {"organism": HUMAN, "top_k": K, "labels": LABELS, "gene_names": "name"}
        few.var["name"], few.var_names = few.var_names, [f"ENSG{i:011}" for i in range(few.n_vars)]
        table = c2s.tl.explain(few, released, **given)
        found = c2s.tl.deletion_test(few, released, table, n_genes=2, n_random=1, **given).cells
        c2s.tl.annotate(few, released, **given)
        confidence = few.obs["c2s_confidence"][found["cell"]]
        np.testing.assert_allclose(found["probability"], confidence, atol=1e-5)

    def test_cells_are_written_in_the_genes_given(self, released, few, monkeypatch):
        from c2s.decoding.engine import TransformersEngine

        asked = []
        real = TransformersEngine.generate

        def watch(self, prompts, *rest):
            asked.extend(prompts)
            return real(self, prompts, *rest)

        monkeypatch.setattr(TransformersEngine, "generate", watch)
        genes = list(few.var_names)
        made = c2s.tl.generate(
            released, ["beta cell", "T cell"], 2, organism=HUMAN, top_k=K, genes=genes
        )
        assert list(made.obs["cell_type"]) == ["beta cell"] * 2 + ["T cell"] * 2
        for sentence in made.obs["cell_sentence"]:
            words = sentence.split()
            assert len(words) == len(set(words)) == K
            assert set(words) <= {gene.upper() for gene in genes}
        assert list(made.var_names) == [gene.upper() for gene in genes]
        written = [
            CELL.format(num_genes=K, organism=HUMAN, cell_type=t) for t in made.obs["cell_type"]
        ]
        expected = released.tokenizer.backend(written)["input_ids"]
        assert [prompt.tolist() for prompt in asked] == expected

    def test_what_is_missing_is_said_in_one_line(self, released, few):
        for call, said in (
            (lambda: c2s.tl.generate(released, "beta", organism=HUMAN), "genes="),
            (lambda: c2s.tl.generate(released, organism=HUMAN, genes=["INS"]), "by cell_type"),
            (lambda: c2s.tl.generate(released, "beta", genes=["INS"]), "organism="),
            (lambda: c2s.tl.annotate(few, released, organism=HUMAN), "give labels="),
            (
                lambda: c2s.tl.annotate(few, released, LABELS, organism=HUMAN, strict=True),
                "keeps no list",
            ),
        ):
            with pytest.raises(UsageError) as error:
                call()
            one_line(error, said)

    def test_an_organism_that_it_never_saw_is_named(self, released, few):
        with pytest.warns(C2SWarning, match="never saw organism 'Danio rerio'"):
            c2s.tl.embed(few, released, organism="Danio rerio", top_k=K)

    def test_genes_without_symbols_are_warned_of(self, released, few):
        few.var_names = [f"ENSG{i:011d}" for i in range(few.n_vars)]
        with pytest.warns(C2SWarning, match="40 of 40 genes have an Ensembl id and no symbol"):
            c2s.tl.embed(few, released, organism=HUMAN, top_k=K)

    def test_it_is_an_encoder_of_any_cells(self, released, few):
        from c2s.encoders.c2s_model import C2SEncoder

        normal = few.copy()
        c2s.pp.normalize(normal)
        encoder = C2SEncoder(released, organism=HUMAN, top_k=K)
        vocabulary = GeneVocabulary.from_var(few.var)
        found = encoder.encode(normal.X.tocsr(), vocabulary, few.obs_names.to_numpy())
        c2s.tl.embed(few, released, organism=HUMAN, top_k=K)
        np.testing.assert_allclose(found, few.obsm["X_c2s"], atol=1e-4)
        assert encoder._opened(vocabulary) is encoder._opened(GeneVocabulary.from_var(few.var))

    def test_a_study_gives_it_the_genes_of_its_cells(self, released):
        from types import SimpleNamespace

        from c2s.studies.model import StudyModel, study_model

        opened = StudyModel(released, 1, False, {})
        cells = SimpleNamespace(vocabulary=GeneVocabulary(["INS", "GCG"]))
        found = study_model(cells, SimpleNamespace(train=None), opened, None, None)
        assert found.model.vocabulary.words == ("INS", "GCG")


class TestCommands:
    @pytest.fixture
    def run(self, monkeypatch, capsys, tmp_path):
        """Return a function that runs `c2s ARGS` and gives (exit code, stdout, stderr)."""
        monkeypatch.chdir(tmp_path)

        def run(*args):
            monkeypatch.setattr(sys, "argv", ["c2s", *map(str, args)])
            code = 0
            with warnings.catch_warnings():
                try:
                    cli.main()
                except SystemExit as stop:
                    code = stop.code or 0
            out, err = capsys.readouterr()
            return code, out, err

        return run

    def test_annotate_embed_and_generate(self, run, make_folder, wording, few, tmp_path):
        few.obs["organism"] = HUMAN
        few.write_h5ad("cells.h5ad")
        (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
        model = ("--model", make_folder("neox"), "--prompts", wording, "--device", "cpu")
        code, _, err = run(
            "annotate", "cells.h5ad", "-o", "a.h5ad", "--labels", "labels.txt", "--top-k", K, *model
        )
        assert (code, err) == (0, "")
        loaded = load_model(make_folder("neox"), prompts=wording, device="cpu")
        same = c2s.tl.annotate(few, loaded, LABELS, top_k=K, copy=True)
        assert list(ad.read_h5ad("a.h5ad").obs["c2s_cell_type"]) == list(same.obs["c2s_cell_type"])
        code, _, err = run("embed", "cells.h5ad", "-o", "e.h5ad", "--top-k", K, *model)
        assert (code, err) == (0, "")
        assert np.isfinite(ad.read_h5ad("e.h5ad").obsm["X_c2s"]).all()
        wanted = ("--cell-type", "beta cell", "-n", 2, "--organism", HUMAN, "--top-k", K)
        code, out, err = run("generate", *wanted, "--genes", "cells.h5ad", *model)
        assert (code, err) == (0, "")
        sentences = [line.split("\t")[1].split() for line in out.splitlines()]
        assert [len(words) for words in sentences] == [K, K]
        assert {w for words in sentences for w in words} <= {g.upper() for g in few.var_names}
        code, _, err = run(
            "annotate",
            "cells.h5ad",
            "-o",
            "b.h5ad",
            "--labels",
            "labels.txt",
            "--label",
            "x",
            *model,
        )
        assert code == 2
        assert err == "c2s: give either --label or --labels, not both\n"

    def test_explain_and_calibrate(self, run, make_folder, wording, few, tmp_path):
        """A folder without c2s.json cannot keep a temperature, which is said before the work; a copy can."""
        few.obs["label"] = LABELS
        few.write_h5ad("cells.h5ad")
        model = ("--model", make_folder("neox"), "--prompts", wording, "--device", "cpu")
        given = (*model, "--organism", HUMAN, "--top-k", K)
        candidates = [word for label in LABELS for word in ("--candidate", label)]
        code, _, err = run("explain", "cells.h5ad", "-o", "e.csv", *candidates, *given)
        assert (code, err) == (0, "")
        labels = [word for label in LABELS for word in ("--label", label)]
        calibrate = ("calibrate", "cells.h5ad", "--truth", "label", *labels, *given)
        code, _, err = run("calibrate", "absent.h5ad", *given)
        assert code == 2
        assert err.endswith("can keep the temperature; give --out for a calibrated copy\n")
        code, _, err = run(*calibrate, "-o", "calibrated")
        assert code == 0, err
        assert load_model(tmp_path / "calibrated").card.calibration["n_cells"] == 3

    def test_a_family_can_be_named(self, run, make_folder, wording, few, tmp_path):
        few.write_h5ad("cells.h5ad")
        shutil.copytree(make_folder("neox"), tmp_path / "model")
        model = ("--model", "model", "--prompts", wording, "--device", "cpu", "--organism", HUMAN)
        code, _, err = run("embed", "cells.h5ad", "-o", "e.h5ad", *model)
        assert code == 1
        assert len(err.splitlines()) == 1
        assert "without a gene vocabulary" in err
        named = ("--profile", "C2S-Scale-Pythia-1b-pt", "--top-k", K)
        code, _, err = run("embed", "cells.h5ad", "-o", "e.h5ad", *named, *model)
        assert (code, err) == (0, "")


@pytest.fixture(scope="module")
def formatter():
    """The prompt formatter of an installed `cell2sentence`, loaded without the rest of the package."""
    spec = importlib.util.find_spec("cell2sentence")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the cell2sentence package is not installed")
    pytest.importorskip("datasets")
    path = f"{spec.submodule_search_locations[0]}/prompt_formatter.py"
    found = importlib.util.spec_from_file_location("upstream_formatter", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class TestInstalledPackage:
    """The tokens that the real package feeds for a cell are among those that we feed, wording by wording."""

    def test_the_tokens_of_a_cell_type_prompt(self, formatter, folder, few):
        from c2s.analysis.cells import cells_for_model, opened_for
        from datasets import Dataset

        model = opened_for(few.var, load_model(folder, device="cpu"))
        cells = cells_for_model(few, model, top_k=K)
        rows = [
            {"cell_sentence": cells.sentence(i), "organism": HUMAN, "cell_type": "x"}
            for i in range(3)
        ]
        made = formatter.C2SPromptFormatter("cell_type_prediction", K).format_hf_ds(
            Dataset.from_list(rows * 20)
        )
        theirs = model.tokenizer.backend(list(made["model_input"]))["input_ids"]
        organism = {"organism": np.full(3, HUMAN, dtype=object)}
        views = len(model.prompts.wording("cell_type").prompts)
        ours = [
            label_prompts(model, CELL_TYPE, cells, organism, np.arange(3), view, 0, K)
            for view in range(views)
        ]
        seen = set()
        for n, ids in enumerate(theirs):
            view = [prompts[n % 3].tolist() for prompts in ours].index(ids)
            seen.add(view)
        assert views == 15
        assert len(seen) > 10
        assert formatter.C2SPromptFormatter("cell_type_prediction", K).prompts_dict["model_input"][
            0
        ].format(
            num_genes=K, organism=HUMAN, cell_sentence=cells.sentence(2)
        ) == model.tokenizer.backend.decode(ours[0][2], skip_special_tokens=True)
