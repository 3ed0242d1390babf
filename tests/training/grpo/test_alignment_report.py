"""The report of a run of alignment, by the command: what it says is what the run left."""

import json
import re
import warnings

import pytest
import yaml
from tests import html_page

from c2s.common.errors import C2SWarning, InputError
from c2s.report.alignment import alignment_report, render_alignment
from c2s.training.grpo.signs import shares_of_time, signs_of_hacking

HOSTILE = '<script>alert("1")</script>'


class Page(html_page.Page):
    """With spaces for those that do not break."""

    def handle_data(self, data):
        super().handle_data(data.replace("\xa0", " "))


@pytest.fixture(scope="module")
def run(small_corpus, model_folder, tmp_path_factory):
    """Folder of a run of four steps that the command made, and what the command said."""
    from typer.testing import CliRunner

    from c2s.cli.main import app

    folder = tmp_path_factory.mktemp("secret")
    recipe = {
        "stage": "grpo",
        "base": {"model": str(model_folder)},
        "data": {"corpus": str(small_corpus / "corpus")},
        "policy": {"group": 4, "beta": 0.05},
        "rewards": ["negative_mse", {"name": "validity", "weight": 0.5}],
        "optimisation": {"steps": 4, "batch_size": 2, "learning_rate": 0.02, "schedule": "constant"},
        "evaluation": {"every": 2, "cells": 20, "labels": 10},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", C2SWarning)
        done = CliRunner().invoke(
            app, ["train", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
        )
    assert done.exit_code == 0, done.output
    return folder / "run", done.output, [str(w.message) for w in told if w.category is C2SWarning]


def left(folder):
    facts = json.loads((folder / "run.json").read_text())
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return facts, yaml.safe_load((folder / "recipe.yaml").read_text()), log


def test_the_report_of_a_run(run):
    folder = run[0]
    facts, _, log = left(folder)
    page = Page((folder / "report.html").read_text())
    rows = {row[0]: row[1:] for row in page.rows}
    assert rows["negative mse"] == ["1.00", "—"]
    assert rows["validity"] == ["0.500", "—"]
    assert rows["Share of valid cells"] == ["100 %", "100 %", "same", "rewarded"]
    assert rows["Genes a cell"] == ["16.0", "16.0", "same", ""]
    for name, title in (("scfid", "scFID"), ("energy_distance", "Energy distance")):
        assert float(rows[title][0]) == pytest.approx(facts["before"][name], rel=0.01)
        assert float(rows[title][1]) == pytest.approx(facts["after"][name], rel=0.01)
        assert rows[title][2:] == ["worse" if facts["after"][name] > facts["before"][name] else "better", ""]  # fmt: skip
    for heading in (
        "Reward: weighted sum", "Reward: negative mse", "scFID", "Diversity (real cells: 1)", "Accuracy, cell type",
        "Share of valid cells (rewarded)", "KL from the model before (nats a token)", "Entropy of the choices (nats)",
    ):  # fmt: skip
        assert heading in page.words
    share = shares_of_time(log)["rewards"]
    found = re.search(r"Rewards took ([\d.]+) % of a step", page.text)
    assert float(found[1]) == pytest.approx(100 * share, abs=0.1)


def test_signs_are_kept_shown_and_told(run):
    folder, output, told = run
    facts, _, log = left(folder)
    # A step size of this kind forgets a task in four steps.
    assert any(sign.startswith("accuracy of cell_type fell") for sign in facts["signs"])
    assert (
        facts["signs"]
        == told
        == signs_of_hacking(facts["before"], facts["after"], log, facts["rewards"])
    )
    page = Page((folder / "report.html").read_text())
    for sign in facts["signs"]:
        assert sign in page.words
    assert f"report in {folder / 'report.html'}" in output
    card = json.loads((folder / "model" / "c2s.json").read_text())
    assert card["training"]["signs"] == facts["signs"]


def test_it_is_one_file_that_names_no_place_of_the_machine(run, tmp_path_factory):
    html = (run[0] / "report.html").read_text()
    assert "secret" not in html
    assert str(tmp_path_factory.getbasetemp()) not in html
    assert not re.search(r"\b(nan|None|inf)\b", Page(html).text)
    assert not re.search(r"url\((?!#)", html)
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "iframe", "link")
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith("#")
    ids = [a["id"] for _, a in Page(html).tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for _, a in Page(html).tags if (a.get("href") or "").startswith("#")}
    assert targets <= set(ids)


def test_it_can_be_written_again_and_is_the_same(run):
    before = (run[0] / "report.html").read_bytes()
    assert alignment_report(run[0]) == run[0] / "report.html"
    assert (run[0] / "report.html").read_bytes() == before


def test_signs_stand_on_top_and_names_are_escaped(run):
    facts, recipe, log = left(run[0])
    facts |= {
        "base": f"/secret/{HOSTILE}",
        "before": {"diversity": 1.0},
        "after": {"diversity": 0.2},
    }
    recipe["rewards"][0] |= {"encoder": "scgpt:/secret/human", "genes": [HOSTILE, "INS"]}
    html = render_alignment(facts, recipe, log)
    page = Page(html)
    assert "<script" not in html
    assert "secret" not in html
    assert HOSTILE.split("/")[-1] in page.text
    assert "encoder: scgpt:human" in page.text
    assert page.text.index("diversity fell from 1 to 0.2") < page.text.index("What was rewarded")
    calm = render_alignment({**facts, "after": facts["before"]}, recipe, [])
    assert "No sign that the reward was gamed" in Page(calm).text
    assert "No step was timed" in Page(calm).text


def test_what_is_no_finished_alignment_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"no finished run; run\.json is missing"):
        alignment_report(tmp_path)
    (tmp_path / "recipe.yaml").write_text("stage: sft")
    (tmp_path / "log.jsonl").write_text("")
    (tmp_path / "run.json").write_text('{"stage": "sft"}')
    with pytest.raises(InputError, match="a run of stage 'sft', not of an alignment"):
        alignment_report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        alignment_report(tmp_path)
