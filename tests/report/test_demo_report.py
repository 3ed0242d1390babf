"""The demo's report: self-contained, made from its input only, never broken by what is missing."""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from tests import html_page

from c2s.common.errors import InputError, UsageError
from c2s.report import DemoResults, demo_overview, render, write_report
from c2s.report.wording import DASH


class Page(html_page.Page):
    """With plain spaces and minus signs, and rows by their beginning."""

    @property
    def text(self) -> str:
        return super().text.replace("\u00a0", " ").replace("−", "-")

    def row(self, *starts: str) -> list[str]:
        """Return the cells of the only row that begins with `starts`."""
        tidy = [[" ".join(c.split()).replace("−", "-") for c in row] for row in self.rows]
        found = [r for r in tidy if all(c.startswith(s) for c, s in zip(r, starts, strict=False))]
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def page(whole_page):
    return Page(whole_page)


def test_loads_nothing_from_elsewhere(page, whole_page):
    assert not {"script", "link", "iframe", "img", "object", "embed"} & {t for t, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), (name, value[:80])
    assert all(url.startswith("#") for url in re.findall(r"url\(\s*[\"']?([^)]*)", whole_page))
    assert "@import" not in whole_page
    assert "http://" not in whole_page
    assert "https://" not in whole_page


def test_ids_are_unique_and_references_lead_somewhere(page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = {
        v[1:] for _, a in page.tags for k, v in a.items() if k == "href" and (v or "")[:1] == "#"
    }
    clips = {
        m for _, a in page.tags for v in a.values() for m in re.findall(r"url\(#(.*?)\)", v or "")
    }
    assert wanted
    assert clips
    assert wanted | clips <= set(ids)


def test_is_small_and_the_same_each_time(results, whole_page):
    assert len(whole_page.encode()) < 3_000_000
    assert render(results) == whole_page


def test_key_numbers_appear(page):
    for words in (
        "1,103,232 parameters",
        "388 cells",
        "97.4 %",
        "interval 95.4 to 98.7 %",
        "logistic regression 98.7 %",
        "1.3 points below logistic regression",
        "exactly 128 genes 100 %",
        "scFID 31.5",
        "Expected calibration error: 0.0123",
        "-0.7123",
        "0.812",
        "GSE84133",
        "20160101",
        "2.13.0",
        "1,355 / 194 / 388",
        "5 min 52 s",
    ):
        assert words in page.text, words


def test_tables_hold_the_metrics(page):
    assert page.row("This model")[1:] == ["97.4 %", "93.1 %"]
    assert page.row("Nearest neighbours")[1:] == ["96.9 %", "88.8 %"]
    assert page.row("beta", "174", "99.0")[2:5] == ["99.0 %", "98.5 %", "99.0 %"]
    name, model, baseline, ceiling, _, better = page.row("scFID")
    assert name == "scFIDlower is better, ideal 0"
    assert (model, baseline, ceiling) == ("14.3", "23.9", "6.51")
    assert better == "model+7.8 and +17 from the ceiling"
    assert page.row("MMD²")[1:3] == ["0.0118", "0.0117"]
    assert page.row("macrophage", "3", "Energy")[2:6] == [
        "Energy distance",
        "0.490",
        "0.580",
        "0.0800",
    ]


def test_winners_follow_the_numbers(words_only):
    before = Page(render(words_only))
    assert before.row("scFID")[5].startswith("model")
    assert before.row("beta", "174", "scFID")[7].startswith("model")
    assert before.row("ductal", "24", "scFID")[7].startswith("equal")
    assert "Of 5 measures, the model is better than independent resampling in 4" in before.text
    assert "generated cells are 5 % further away than new real cells" in before.text

    found = words_only.metrics["generation"]
    independent = found["baselines"]["independent"]
    for key in ("scfid", "energy_distance", "mmd2", "wasserstein", "c2st"):
        found[key], independent[key] = independent[key], found[key]
    for row in found["per_type"]:
        row["model"], row["independent"] = row["independent"], row["model"]
    near, real = "nearest_training_distance", "nearest_training_distance_real"
    found[near], found[real] = found[real], found[near]
    after = Page(render(words_only))
    assert after.row("scFID")[5].startswith("resampling")
    assert after.row("MMD²")[5].startswith("model")
    assert after.row("beta", "174", "scFID")[7].startswith("resampling")
    assert after.row("ductal", "24", "scFID")[7].startswith("equal")
    assert "Of 5 measures, the model is better than independent resampling in 1" in after.text
    assert "worse than independent resampling" in after.text
    assert "generated cells are 5 % nearer than new real cells" in after.text


def test_annotation_verdict_follows_the_numbers(words_only):
    words_only.metrics["annotation"]["accuracy"] = 0.99
    assert "0.29 points above logistic regression" in Page(render(words_only)).text


def test_no_winner_without_a_direction(words_only):
    page = Page(render(replace(words_only, metric_notes={})))
    assert page.row("scFID")[5] == DASH
    assert "No measure could be compared." in page.text


def test_share_of_near_cells_is_counted(words_only):
    nearest = {"generated": np.array([0.0, 0.0, 5.0, 9.0]), "real": np.arange(1.0, 22.0)}
    assert (
        "50.0 % of generated cells are as near"
        in Page(render(replace(words_only, nearest=nearest))).text
    )


def test_shared_genes_are_marked(words_only):
    example = {"cell_type": "x", "generated": ["INS", "GCG", "XIST"], "real": ["GCG", "INS", "TTR"]}
    html = render(replace(words_only, examples=[example]))
    assert "2 of 3 shared" in html
    assert html.count("<mark>INS</mark>") == html.count("<mark>GCG</mark>") == 2
    assert "<mark>XIST</mark>" not in html
    assert "<mark>TTR</mark>" not in html


def clean(html: str) -> None:
    """Nothing missing shows as anything but a dash."""
    words = Page(html).text
    assert not re.search(r"\b(nan|None|NaN|inf|undefined)\b", words)
    assert DASH in words


def test_nothing_but_dashes_when_there_is_nothing():
    clean(render(DemoResults(metrics={})))
    clean(render(DemoResults(metrics=dict.fromkeys(("dataset", "annotation", "generation")))))


@pytest.mark.parametrize("name", [f.name for f in fields(DemoResults) if f.name != "metrics"])
def test_any_part_may_be_missing(results, name):
    html = render(replace(results, **{name: None}))
    assert not re.search(r"\b(nan|None|NaN)\b", Page(html).text)


def hollow(value, put):
    """Return a copy of nested values with every leaf replaced."""
    if isinstance(value, dict):
        return {key: hollow(item, put) for key, item in value.items()}
    if isinstance(value, list):
        return [hollow(item, put) for item in value]
    return put


@pytest.mark.parametrize("put", [None, float("nan")], ids=["None", "nan"])
def test_any_number_may_be_missing(words_only, put):
    clean(render(replace(words_only, metrics=hollow(words_only.metrics, put))))


def test_empty_arrays_are_a_dash(results):
    empty = np.empty(0)
    clean(
        render(
            replace(
                results,
                confusion=([], np.empty((0, 0))),
                reliability=[],
                rank_points=(empty, empty),
                losses=[],
                nearest={"generated": empty, "real": empty},
                examples=[],
            )
        )
    )


def test_names_are_text_and_not_markup(results):
    odd = "<b>&$x$"
    results.metrics["annotation"]["per_type"][0]["cell_type"] = odd
    types = results.umap_type.astype("U40")
    types[types == "beta"] = odd
    labels = [odd, *results.confusion[0][1:]]
    changed = replace(results, umap_type=types, confusion=(labels, results.confusion[1]))
    html = render(changed)
    assert "<b>&$" not in html
    assert Page(html).text.count(odd) >= 4  # table, legend, map and confusion matrix


def test_figures_follow_the_page(whole_page):
    svgs = re.findall(r"<svg id.*?</svg>|<svg [^>]*role=\"img\".*?</svg>", whole_page, re.DOTALL)
    assert len(svgs) == 8
    for svg in svgs:
        assert "currentColor" in svg
        assert "font-family" not in svg
        assert "aria-label" in svg


def test_mismatched_arrays_are_refused(results, tmp_path):
    target = tmp_path / "report.html"
    with pytest.raises(InputError, match="cell_types has"):
        write_report(target, replace(results, umap_type=results.umap_type[:-1]))
    assert os.listdir(tmp_path) == []


def test_report_is_written_whole(words_only, tmp_path):
    target = tmp_path / "report.html"
    target.write_text("old")
    write_report(target, words_only)
    assert target.read_text(encoding="utf-8") == render(words_only)
    assert os.listdir(tmp_path) == ["report.html"]
    with pytest.raises(UsageError, match="does not exist"):
        write_report(tmp_path / "nowhere" / "report.html", words_only)


def test_overview_shows_map_confusion_and_fit(results):
    figure = demo_overview(results)
    cells, confusion, rank, *_ = figure.axes
    assert sum(len(c.get_offsets()) for c in cells.collections) == len(results.umap)
    assert len(confusion.images[0].get_array()) == len(results.confusion[0])
    slope, intercept = (results.metrics["inverse"][k] for k in ("slope", "intercept"))
    x, y = rank.lines[0].get_data()
    assert y == pytest.approx(intercept + slope * x)
    width, height = figure.get_size_inches()
    assert width > 2 * height


def test_overview_of_nothing_is_dashes(tmp_path):
    figure = demo_overview(DemoResults(metrics={}))
    assert [ax.texts[0].get_text() for ax in figure.axes] == [DASH] * 3
    figure.savefig(tmp_path / "overview.png", dpi=20)
