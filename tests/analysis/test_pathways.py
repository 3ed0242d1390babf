"""A model that names pathways before its answers, from training to annotated and generated cells."""

import anndata as ad
import numpy as np
import pytest
import torch

import c2s
from c2s.analysis.annotate import label_probabilities, label_scores
from c2s.analysis.cells import cells_for_model
from c2s.common.errors import InputError, UsageError
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.pathways import behind_lines, line_sampling, with_pathways
from c2s.decoding.prompts import label_answers
from c2s.decoding.sampling import Sampling
from c2s.knowledge.gene_sets import GeneSet
from c2s.knowledge.pathways import PathwaySets
from c2s.tasks.pathways import PathwayLine, Pathways, line
from c2s.tasks.single_cell import CELL_TYPE, CONDITIONAL_CELL
from c2s.training.samples import TokenSample

SETS = {
    "ISLET_HORMONES": ["INS", "GCG", "SST", "PPY", "IAPP", "TTR"],
    "ENZYMES": ["PRSS1", "PRSS2", "CTRB1", "CTRB2", "CPA1", "CPB1", "PNLIP"],
    "KERATINS": ["KRT7", "KRT8", "KRT18", "KRT19", "SPP1"],
    "RIBOSOME": ["RPL10", "RPL11", "RPL13", "RPL15", "RPL19", "RPL3", "RPS2"],
}
NUMBER, TASKS, STEPS = 2, ["cell_type", "cond_cell"], 200


@pytest.fixture(scope="module")
def sets(cut_genes):
    return PathwaySets.of([GeneSet(n, "", tuple(g)) for n, g in SETS.items()], cut_genes, 3)


@pytest.fixture(scope="module")
def stream(cell_table, sets):
    from c2s.corpus.online import OnlineExamples, TaskMix
    from c2s.tasks.prompts import load_prompts

    mix = {"cell_type": TaskMix(weight=3), "cond_cell": TaskMix()}
    named = Pathways(sets, NUMBER, frozenset(TASKS))
    return OnlineExamples(cell_table, mix, load_prompts("c2s"), 16, STEPS * 16, 0, named)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, stream, sets, gene_tokenizer, make_model):
    """A model directory, trained for seconds on answers with pathways before them."""
    from c2s.training.sft import Optimisation, train

    named = PathwayLine(names=list(sets.names), number=NUMBER, tasks=TASKS)
    model = make_model(gene_tokenizer, card={"pathways": named}, hidden=48, spread=0.02)
    train(
        model, stream, Optimisation(steps=STEPS, batch_size=16, learning_rate=5e-3), device="cpu"
    )  # fmt: skip
    place = tmp_path_factory.mktemp("pathways") / "model"
    model.save(place)
    return place


@pytest.fixture(scope="module")
def model(folder):
    return c2s.load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def text_model(sets, make_tokenizer, make_model, cut_genes):
    """One that writes genes in pieces, not trained."""
    named = PathwayLine(names=list(sets.names), number=NUMBER, tasks=TASKS)
    return make_model(make_tokenizer(cut_genes, "text"), card={"pathways": named})


def split(names):
    return [text.split("; ") for text in names]


def check_names(names, sets):
    for line_names in split(names):
        assert len(line_names) == len(set(line_names)) == NUMBER
        assert set(line_names) <= set(sets.names)


def test_the_card_keeps_what_is_named(model, sets):
    assert model.card.pathways == PathwayLine(names=list(sets.names), number=NUMBER, tasks=TASKS)


def test_annotation_names_the_pathways_of_the_cell_first(model, cut, sets):
    adata = cut.copy()
    c2s.tl.annotate(adata, model)
    check_names(adata.obs["c2s_pathways"], sets)
    best = sets.best(cells_for_model(adata, model), NUMBER)
    true = [{sets.names[k] for k in row} for row in best.tolist()]
    found = [
        len(set(a) & b) / NUMBER
        for a, b in zip(split(adata.obs["c2s_pathways"]), true, strict=True)
    ]
    assert np.mean(found) > 0.8  # by chance 0.5
    right = adata.obs["c2s_cell_type"].astype(str) == adata.obs["cell_type"].astype(str)
    assert right.mean() > 0.6  # by chance 0.2
    assert "c2s_pathways" in adata.uns["c2s"]["annotate"]["keys"]["obs"]
    other = cut.copy()
    c2s.tl.annotate(other, model, pathways_key="plan", batch_size=3)
    assert other.obs["plan"].tolist() == adata.obs["c2s_pathways"].tolist()
    assert "c2s_pathways" not in other.obs


def test_the_command_refuses_a_column_for_what_is_not_named(
    model_folder, cut, tmp_path, monkeypatch, capsys
):
    from c2s.cli import main

    cut[:2].copy().write_h5ad(tmp_path / "cells.h5ad")
    command = [
        "annotate",
        tmp_path / "cells.h5ad",
        "-o",
        tmp_path / "out.h5ad",
        "--model",
        model_folder,
    ]
    command += ["--pathways-key", "plan", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["c2s", *map(str, command)])
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    assert "--pathways-key: the model names no pathways" in capsys.readouterr().err
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize("which", ["model", "text_model"])
def test_scores_are_those_behind_the_most_probable_line(which, request, cut):
    asked = request.getfixturevalue(which)
    adata = cut[::40].copy()
    labels = asked.known("cell_type")
    scores = label_scores(adata, asked, labels)[0]
    cells = cells_for_model(adata, asked)
    template = asked.prompts.wording("cell_type").prompts[0]
    for i in range(len(adata)):
        columns = cells.to_columns(i)
        prompt = CELL_TYPE.ask(template, {"organism": "Homo sapiens"}, columns, len(columns))
        ids = asked.tokenizer.encode(prompt).tolist()
        ids += most_probable_line(asked, ids)
        expected = [log_p(asked, ids, a) for a in label_answers(asked, CELL_TYPE, labels)]
        np.testing.assert_allclose(scores[i], expected, atol=1e-3)


def log_softmax(model, ids):
    """Return log p of the next token behind every token, by one plain pass."""
    with torch.inference_mode():
        return model.network(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def log_p(model, ids, answer):
    after = log_softmax(model, [*ids, *answer])
    return sum(float(after[len(ids) - 1 + k, token]) for k, token in enumerate(answer))


def most_probable_line(model, ids):
    """Return the line written token by token, greedily, among the tokens of all lines that there are."""
    encode, names = model.tokenizer.encode_english, model.card.pathways.names
    lines = [encode(line([a, b])).tolist() for a in names for b in names if a != b]
    written = encode(" Pathways:").tolist()
    assert all(text[: len(written)] == written for text in lines)
    while written not in lines:
        may = {text[len(written)] for text in lines if text[: len(written)] == written}
        after = log_softmax(model, [*ids, *written])[-1]
        written.append(max(sorted(may), key=lambda t: float(after[t])))
    return written


def test_several_views_and_files_give_the_same_way(model, cut, tmp_path):
    part = cut[::6].copy()
    part.write_h5ad(tmp_path / "cells.h5ad")
    c2s.tl.annotate(part, model, views=2)
    once = cut[::6].copy()
    c2s.tl.annotate(once, model)
    assert part.obs["c2s_pathways"].tolist() == once.obs["c2s_pathways"].tolist()
    c2s.tl.annotate_file(tmp_path / "cells.h5ad", tmp_path / "out.h5ad", model, views=2, chunk_size=7)  # fmt: skip
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    assert back.obs["c2s_pathways"].tolist() == part.obs["c2s_pathways"].tolist()
    assert back.obs["c2s_cell_type"].tolist() == part.obs["c2s_cell_type"].tolist()


def test_a_cell_without_genes_has_no_pathways(model, cut, tmp_path):
    adata = cut[:4].copy()
    kept = np.ones((4, 1))
    kept[2] = 0
    adata.X = adata.X.multiply(kept).tocsr()
    with pytest.warns(UserWarning, match="1 of 4"):
        c2s.tl.annotate(adata, model)
    assert adata.obs["c2s_pathways"].iloc[2] == ""
    assert all(adata.obs["c2s_pathways"].iloc[[0, 1, 3]])
    adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad").obs["c2s_pathways"]
    assert back.tolist() == adata.obs["c2s_pathways"].tolist()


def test_calibration_goes_the_same_way(model, cut):
    asked = c2s.load_model(model.source, device="cpu")
    part = cut[::2].copy()
    found = c2s.tl.calibrate(part, asked)
    labels = asked.known("cell_type")
    p = label_probabilities(part, asked, labels, temperature=1.0)
    true = [labels.index(label) for label in part.obs["cell_type"].astype(str)]
    nll = -np.log(p[np.arange(len(true)), true]).mean()
    np.testing.assert_allclose(found["nll_before"], nll, rtol=1e-6)


@pytest.mark.parametrize("which", ["model", "text_model"])
def test_generation_names_a_plan_and_writes_the_cell_behind_it(which, request, sets):
    asked = request.getfixturevalue(which)
    adata = c2s.tl.generate(asked, ["alpha", "acinar"], 6, seed=3)
    check_names(adata.obs["pathways"], sets)
    again = c2s.tl.generate(asked, ["alpha", "acinar"], 6, seed=3, batch_size=5)
    for key in ("pathways", "cell_sentence"):
        assert adata.obs[key].tolist() == again.obs[key].tolist()
    other = c2s.tl.generate(asked, ["alpha", "acinar"], 6, seed=4)
    assert other.obs["pathways"].tolist() != adata.obs["pathways"].tolist()
    assert all(len(s.split()) == 16 for s in adata.obs["cell_sentence"])
    # By hand: the line behind the prompt, then the genes behind the line.
    from c2s.analysis.write_cells import gene_choice
    from c2s.decoding.answers import answer_constraint

    engine, sampling = TransformersEngine(asked), Sampling(seed=3)
    prompts = [asked.tokenizer.encode([text]) for text in adata.obs["prompt"]]
    planned = with_pathways(engine, asked, CONDITIONAL_CELL, prompts, line_sampling(sampling))
    assert planned.pathways == adata.obs["pathways"].tolist()
    for prompt, ids, names in zip(prompts, planned.prompts, planned.pathways, strict=True):
        text = asked.tokenizer.encode_english(line(names.split("; "))).tolist()
        assert ids.tolist() == [*prompt.tolist(), *text]
    begin, constraint = answer_constraint(asked, [" ", ""], gene_choice(asked))
    states = engine.generate([np.append(p, begin) for p in planned.prompts], constraint, sampling)
    words = [" ".join(asked.vocabulary.words[g] for g in state.genes) for state in states]
    assert words == adata.obs["cell_sentence"].tolist()


def test_a_plan_is_that_of_the_type(model):
    adata = c2s.tl.generate(model, ["acinar", "beta"], 20, seed=0)
    enzymes = np.array(["enzymes" in names for names in split(adata.obs["pathways"])])
    hormones = np.array(["islet hormones" in names for names in split(adata.obs["pathways"])])
    acinar = (adata.obs["cell_type"] == "acinar").to_numpy()
    assert enzymes[acinar].mean() > enzymes[~acinar].mean()
    assert hormones[~acinar].mean() > hormones[acinar].mean()


def test_a_request_that_is_no_task_has_no_plan(model):
    with pytest.warns(UserWarning, match="goes to the model as it is"):
        adata = c2s.tl.generate(model, prompt="draw me a cell like none before", n=2)
    assert "pathways" not in adata.obs


def test_explanations_are_refused(model, cut):
    with pytest.raises(UsageError, match="the model names pathways before a label"):
        c2s.tl.explain(cut[:2].copy(), model)


def samples_of_task(stream, tokenizer, task, n):
    found = []
    for example in stream.draw(range(400)):
        if example.task == task and len(found) < n:
            prompt, response = (tokenizer.encode(e) for e in (example.prompt, example.response))
            ids = np.concatenate([prompt, response, [tokenizer.eos_id]])
            found.append(TokenSample(ids, len(prompt), task))
    return found


def test_measures_in_training_read_behind_the_line(model, stream):
    from c2s.studies.scaling_measures import gene_overlaps, label_answered
    from c2s.training.measure import LabelAccuracy

    samples = samples_of_task(stream, model.tokenizer, "cell_type", 20)
    labels = model.known("cell_type")
    answered, true = label_answered(model, CELL_TYPE, samples)
    assert set(true) <= set(labels)
    right = LabelAccuracy(model, samples, {"cell_type": labels}).right()["cell_type"]
    assert right.tolist() == [a == t for a, t in zip(answered, true, strict=True)]
    assert right.mean() > 0.6
    cells = samples_of_task(stream, model.tokenizer, "cond_cell", 6)
    overlaps = gene_overlaps(model, CONDITIONAL_CELL, cells, temperature=1.0, seed=0)
    assert (overlaps > 0).all()
    assert (overlaps <= 100).all()


def test_what_stands_behind_the_line_of_a_sample(model, stream):
    (sample,) = samples_of_task(stream, model.tokenizer, "cell_type", 1)
    response = sample.ids[sample.prompt_length :]
    (behind,) = behind_lines(model, CELL_TYPE, [response])
    answers = label_answers(model, CELL_TYPE, model.known("cell_type"))
    assert behind in answers
    with pytest.raises(InputError, match="a sample of cell_type has no line of pathways"):
        behind_lines(model, CELL_TYPE, [response, behind])
    with pytest.raises(InputError, match="no line of pathways"):
        behind_lines(model, CELL_TYPE, [response[:5]])
