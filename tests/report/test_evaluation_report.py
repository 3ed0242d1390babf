"""The report of an evaluation: self-contained, its numbers those of the evaluation, every word escaped."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tests.html_page import Page

import c2s
from c2s.common.errors import UsageError
from c2s.evaluate.compare import evaluate
from c2s.evaluate.result import Evaluation
from c2s.evaluate.wording import standing
from c2s.metrics import METRICS
from c2s.report.evaluation import render_evaluation, write_evaluation_report
from c2s.report.evaluation_view import _STANDINGS, page
from c2s.report.wording import number, told_apart

HOSTILE = '<script>alert("1")</script> & $x$'


@pytest.fixture(scope="module")
def found():
    """Held-out cells as the generated ones, of three types, one with a hostile name."""
    adata = c2s.datasets.pancreas()
    adata = adata[adata.obs["cell_type"].isin(["alpha", "beta", "delta", "mast"])].copy()
    counts = np.asarray(adata.X.sum(axis=0)).ravel()
    some = np.random.default_rng(1).permutation(adata.n_obs)[:450]
    adata = adata[some, np.sort(np.argsort(-counts)[:600])].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace({"delta": HOSTILE})
    third = np.random.default_rng(0).integers(0, 3, adata.n_obs)
    parts = [adata[third == i].copy() for i in range(3)]
    parts[1].obs["cell_sentence"] = [
        c2s.pp.cell_sentences(parts[1], top_k=60).sentence(i) for i in range(parts[1].n_obs)
    ]
    return evaluate(
        parts[0],
        parts[1],
        ["cell_type"],
        train=parts[2],
        metrics=["scfid", "energy_distance", "mmd2", "wasserstein", "pearson", "overlap"],
        min_cells={"scfid": 40},
        n_splits=2,
    )


@pytest.fixture(scope="module")
def html(found):
    return render_evaluation(found, "Cells & <more>")


@pytest.fixture(scope="module")
def parsed(html):
    return Page(html)


def bare(table=(), left_out=(), **facts):
    """An evaluation of nothing but what is given."""
    columns = ["scope", "condition", "candidate", "metric", "value", "low", "high", "n_cells"]
    columns += ["difference", "difference_low", "difference_high", "n_conditions"]
    return Evaluation(
        pd.DataFrame(list(table), columns=columns),
        pd.DataFrame(list(left_out), columns=["condition", "candidate", "metric", "reason"]),
        {"n_conditions": 2, "n_compared": 2, "by": ["cell_type"], **facts},
    )


def test_nothing_is_loaded_from_elsewhere(html, parsed):
    for _, attributes in parsed.tags:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)", html)
    assert not any(tag in ("script", "iframe", "link") for tag, _ in parsed.tags)


def test_ids_are_unique_and_links_have_targets(parsed):
    ids = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for _, a in parsed.tags if (a.get("href") or "").startswith("#")]
    assert len(targets) > 10
    assert set(targets) <= set(ids)


def test_every_name_is_escaped(html, parsed):
    assert "<script" not in html
    assert HOSTILE in parsed.text
    assert "Cells & <more>" in parsed.text


def test_no_missing_number_is_printed(parsed):
    assert not re.search(r"\b(nan|None|inf)\b", parsed.text)


def test_tables_hold_the_figures_of_the_evaluation(found, parsed):
    rows = {}
    for row in parsed.rows:
        rows.setdefault(row[0].split("lower")[0].split("higher")[0], []).append(row)
    for scope, at in (("mean", 0), ("together", 1)):
        for metric, title in (("energy_distance", "Energy distance"), ("overlap", "Overlap")):
            values = [
                found.value(metric, candidate, scope)
                for candidate in ("generated", "ceiling", "independent")
            ]
            written = told_apart(values)
            shown = rows[title][at][1:4]
            assert [cell[: len(w)] for cell, w in zip(shown, written, strict=True)] == written
    assert rows["Overlap"][0][0].endswith("higher is better, ideal 100")


def test_the_verdict_names_each_measure_once_with_its_standing(found, parsed):
    for scope in ("mean", "together"):
        rows = found.table[found.table["scope"] == scope]
        verdict = page(found, "")["verdicts"][("mean", "together").index(scope)]
        named = " and ".join(group["metrics"] for group in verdict["groups"])
        for metric in set(rows["metric"]):
            place = standing(rows[rows["metric"] == metric]).place
            title = METRICS[metric].title
            assert len(re.findall(rf"(?<!\w){re.escape(title)}(?!\w|\²)", named)) == 1
            (group,) = [g for g in verdict["groups"] if title in re.split(", | and ", g["metrics"])]
            assert group["place"] == place
            assert group["words"] in parsed.text


def test_held_out_real_cells_as_generated_ones_are_not_told_from_real_cells(found):
    """What was evaluated are real cells: by most measures they must stand at the ceiling."""
    groups = page(found, "")["verdicts"][1]["groups"]
    at_ceiling = [g for g in groups if g["place"] in ("ceiling", "blunt", "mixed")]
    assert sum(len(re.split(", | and ", g["metrics"])) for g in at_ceiling) >= 4


def test_measures_are_explained_in_their_own_words(found, parsed):
    for metric in set(found.table["metric"]):
        assert METRICS[metric].description in parsed.text


def test_facts_and_intervals_are_told(found, parsed):
    assert found.facts["encoder"] in parsed.text
    assert found.facts["intervals"] in parsed.text
    assert f"{found.facts['n_generated']:,} generated cells" in parsed.text
    ties = number(found.value("overlap", "other_ties"))
    assert f"share {ties} % of their genes" in parsed.text


def test_the_round_trip_stands_beside_measured_cells(found):
    rows = {row["title"]: row for row in page(found, "")["round_trip"]["rows"]}
    assert "Overlap" not in rows
    row = rows["Pearson's r"]
    assert row["through"][0] == number(found.value("pearson", "round_trip"))
    assert row["measured"][0] == number(found.value("pearson", "measured"))


def test_figures_are_drawn(found, html):
    for name in ("bars-mean", "bars-together", "map", "nearest", "by-energy_distance"):
        assert f'id="{name}-figure_1"' in html
    assert html.count('role="img"') >= 6


def test_what_was_left_out_is_listed_with_its_reason(found, parsed):
    assert (found.left_out["metric"] == "scfid").any()
    assert re.search(r"scFID.* cells on each side, 40 are needed", parsed.text)


def test_an_evaluation_from_json_gives_the_same_words_without_pictures_of_cells(found):
    again = Evaluation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    words, before = page(again, "t"), page(found, "t")
    for key in ("lead", "verdicts", "mean", "together", "memory", "left_out", "form"):
        assert words[key] == before[key]
    html = render_evaluation(again, "t")
    assert 'id="map-figure_1"' not in html
    assert "keeps no places of cells" in Page(html).text


@pytest.mark.parametrize(
    ("share", "expected"), [(0.05, "no sign of copies"), (0.4, "look for copies")]
)
def test_memorising_is_judged_by_the_share_of_near_cells(share, expected):
    found = {"generated_median": 1.0, "real_median": 2.0, "median_ratio": 0.5}
    words = page(bare(memorisation=found | {"share_below_5th": share}), "")["memory"]
    assert expected in words
    assert f"{share:.1%}".replace("%", "\u00a0%") in words
    assert "ratio 0.500" in words


def test_real_cells_that_were_trained_on_say_nothing_about_copies():
    found = {"generated_median": 1.0, "real_median": 0.0, "median_ratio": None}
    words = page(bare(memorisation=found | {"share_below_5th": 0.0}), "")["memory"]
    assert words.startswith("Not to be told")
    assert "no sign" not in words


def test_a_mean_over_fewer_conditions_says_so():
    row = {"scope": "mean", "metric": "mmd2", "value": 1.0, "low": 0.5, "high": 1.5, "n_cells": 9}
    some = [row | {"candidate": "generated", "n_conditions": 3}]
    some += [row | {"candidate": c, "n_conditions": n} for c, n in (("ceiling", 3), ("control", 1))]
    (shown,) = page(bare(some), "")["mean"]["rows"]
    assert [cell[1] for cell in shown["cells"]] == [
        "0.50 to 1.50", "0.50 to 1.50", "0.50 to 1.50 (of 1 condition)",
    ]  # fmt: skip


def test_an_evaluation_of_nothing_still_makes_a_page():
    text = Page(render_evaluation(bare(), "Nothing")).text
    assert "Not checked: that takes the training cells" in text
    assert "came as expression" in text
    assert "Nothing: every measure was taken" in text


def test_every_standing_has_words_without_a_gap():
    names = [name for name, _ in _STANDINGS.values()]
    assert len(set(names)) == len(names)
    rows = []
    for i, (floor, ends) in enumerate(
        [("control", (0.1, 0.2)), ("mean_shift", (-0.1, 0.2)), ("independent", (-0.2, -0.1))]
    ):
        common = {"scope": "mean", "metric": ("scfid", "mmd2", "overlap")[i], "n_conditions": 1}
        value = {"generated": 1.0, "ceiling": 0.5, floor: 1.0 + sum(ends) / 2}
        rows += [
            common | {"candidate": c, "value": v, "difference": v - 1, "n_cells": 9, "condition": ""}
            | dict(zip(("difference_low", "difference_high"), (0.1, 0.2) if c == "ceiling" else ends, strict=True))
            for c, v in value.items()
        ]  # fmt: skip
    (verdict,) = page(bare(rows), "")["verdicts"]
    assert [group["place"] for group in verdict["groups"]] == ["beyond", "above", "same"]
    assert verdict["tally"] == (
        "By 1 of 3 measures, generated cells are nearer than real cells; by 1, better than every floor; "
        "by 1, not told from a floor."
    )
    assert "untreated cells moved by the mean response" in verdict["groups"][2]["words"]
    assert not any("{" in group["words"] for group in verdict["groups"])


def test_intervals_have_both_ends_to_the_same_place():
    row = {"scope": "mean", "candidate": "generated", "metric": "mmd2", "value": 0.001}
    row |= {"low": -0.000338, "high": 0.00217, "n_cells": 9, "n_conditions": 1}
    ((value, interval),) = page(bare([row]), "")["mean"]["rows"][0]["cells"]
    assert (value, interval) == ("0.00100", "−0.00034 to 0.00217")


def test_the_report_is_whole_or_absent(found, tmp_path):
    small = replace(found, places=pd.DataFrame(), nearest={})
    with pytest.raises(UsageError, match="does not exist"):
        write_evaluation_report(tmp_path / "none" / "report.html", small)
    write_evaluation_report(tmp_path / "report.html", small, "A title")
    assert "<h1>A title</h1>" in (tmp_path / "report.html").read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
