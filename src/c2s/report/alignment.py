"""The report of an alignment: one HTML file that opens without a network, built from what a run left only.

`alignment_report` fills `alignment.html` with what `alignment_view` words and `c2s.plots` draws.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from c2s.common.errors import InputError
from c2s.common.files import atomic_file
from c2s.plots import alignment_measures, alignment_policy, alignment_rewards, alignment_times
from c2s.report import alignment_view
from c2s.report.svg import to_svg
from c2s.report.templates import template
from c2s.training.grpo.signs import Log, measures_of, rewarded, series, shares_of_time

__all__ = ["alignment_report", "render_alignment"]

REPORT = "report.html"


def alignment_report(folder: str | os.PathLike[str]) -> Path:
    """Write the report of a finished run of alignment into its folder, whole or not at all.

    Parameters
    ----------
    folder
        What `c2s train` left, with `recipe.yaml`, `run.json` and `log.jsonl`. A report that is there is replaced.

    Returns
    -------
    Path
        Of `report.html`.

    Raises
    ------
    InputError
        The folder holds no finished run of alignment.
    C2SError
        The file cannot be written.
    """
    out = Path(folder) / REPORT
    html = render_alignment(*_read(Path(folder)))
    with atomic_file(out) as path:
        path.write_text(html, encoding="utf-8")
    return out


def render_alignment(facts: Mapping[str, Any], recipe: Mapping[str, Any], log: Log) -> str:
    """Return the report as HTML: no script, nothing loaded from elsewhere, figures inside.

    Parameters
    ----------
    facts, recipe, log
        `run.json`, `recipe.yaml` and the records of `log.jsonl` of a run.
    """
    return template("alignment.html").render(
        page=alignment_view.page(facts, recipe, log), figures=_drawings(facts, log)
    )


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], Log]:
    """Return the facts, the recipe and the log of a run."""
    try:
        facts: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
        recipe: dict[str, Any] = yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))
        lines = (folder / "log.jsonl").read_text("utf-8").splitlines()
        log = [json.loads(line) for line in lines]
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no finished run; {Path(error.filename).name} is missing"
        ) from None
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{folder}: files of the run cannot be read ({error})") from error
    if facts.get("stage") != "grpo":
        raise InputError(f"{folder}: a run of stage {facts.get('stage')!r}, not of an alignment")
    return facts, recipe, log


def _drawings(facts: Mapping[str, Any], log: Log) -> dict[str, Any]:
    """Return the figures as inline SVG, None where there is nothing to draw."""
    panels = [n for n in alignment_view.measures(facts, log) if n != "nearest_overlap_real"]
    shares = shares_of_time(log)
    drawn: dict[str, Any] = dict.fromkeys(("rewards", "policy", "measures", "time"))
    if rewarded(log):
        drawn["rewards"] = to_svg(alignment_rewards(log), "rewards", "Rewards by step")
    if series(log, "entropy")[0]:
        drawn["policy"] = to_svg(alignment_policy(log), "policy", "KL, entropy and length by step")
    if panels:
        figure = alignment_measures(log, panels, measures_of(facts["rewards"]))
        drawn["measures"] = to_svg(figure, "measures", "Measures by step, held out and of training")
    if shares:
        bars = alignment_times(shares).get_figure(root=True)
        assert bars is not None  # an Axes that was just drawn on
        drawn["time"] = to_svg(bars, "time", "Shares of the time of a step")
    return drawn
