"""What the report of an evaluation says: every word that depends on a number is made here from that number.

`page` returns nested dictionaries of finished text, which `evaluation.html` only lays out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from c2s.evaluate.measures import MEASURES
from c2s.evaluate.measuring import CANDIDATES
from c2s.evaluate.result import Evaluation
from c2s.evaluate.wording import (
    TITLES,
    Place,
    Standing,
    left_out_summary,
    metric_title,
    standing,
)
from c2s.metrics import METRICS
from c2s.report.wording import (
    at,
    count,
    finite,
    names,
    number,
    percent,
    text,
    told_apart,
)

if TYPE_CHECKING:
    import pandas as pd

    from c2s.metrics import Metric

#: What floors are called in a sentence.
FLOOR_NAMES = {
    "independent": "cells whose genes were drawn one by one",
    "control": "untreated cells taken as the prediction",
    "mean_shift": "untreated cells moved by the mean response",
}
_ASIDE = ("other_ties", "round_trip", "measured")
_COPIES = (
    0.10  # share of generated cells nearer than the nearest 5 % of real cells: twice what is right
)

#: How generated cells can stand, best first: a short name, and what it means. {floor} is put in.
_STANDINGS: dict[Place, tuple[str, str]] = {
    "ceiling": (
        "not told from real cells",
        "generated cells cannot be told from other real cells of the same condition.",
    ),
    "beyond": (
        "nearer than real cells",
        "generated cells come nearer to real cells than other real cells do. Copies do that, and cells that vary too "
        "little.",
    ),
    "above": (
        "better than every floor",
        "generated cells are nearer to real cells than every floor, but not as near as other real cells are.",
    ),
    "behind": (
        "worse than real cells",
        "generated cells are not as near to real cells as other real cells are; there is no floor to compare with.",
    ),
    "blunt": (
        "told from neither",
        "generated cells cannot be told from other real cells, but neither can they be told from a floor ({floor}). "
        "With these cells, this says little.",
    ),
    "mixed": (
        "not told from real cells, worse than a floor",
        "generated cells cannot be told from other real cells, but a floor ({floor}) comes nearer still. With these "
        "cells, this says little.",
    ),
    "same": (
        "not told from a floor",
        "generated cells cannot be told from a floor ({floor}), which takes no model.",
    ),
    "below": (
        "worse than a floor",
        "a floor ({floor}), which takes no model, is nearer to real cells than the generated cells are.",
    ),
    "unknown": ("not judged", "there is no interval to judge generated cells by."),
}


def page(evaluation: Evaluation, title: str) -> dict[str, Any]:
    """Return everything that the template shows apart from the figures."""
    facts = evaluation.facts
    return {
        "title": title,
        "lead": lead(facts),
        "verdicts": [
            {"heading": heading, "tally": tally(found), "groups": _groups(found)}
            for heading, scope in (
                ("On average over conditions", "mean"),
                ("All conditions as one sample", "together"),
            )
            if (found := standings(evaluation, scope))
        ],
        "intervals": text(at(facts, "intervals")),
        "candidates": _candidates(evaluation.table),
        "mean": _table(evaluation, "mean"),
        "together": _table(evaluation, "together"),
        "labels": labels_recovered(facts),
        "round_trip": round_trip(evaluation),
        "ties": ties(evaluation),
        "memory": memorising(facts),
        "form": form(facts),
        "left_out": left_out_summary(evaluation),
        "notes": [str(note) for note in at(facts, "notes") or []],
        "glossary": glossary(evaluation.table),
        "settings": settings(facts),
        "facts": _flat(facts),
    }


def lead(facts: Mapping[str, Any]) -> str:
    """Return the sentences that say what was compared with what."""
    control = at(facts, "control")
    treated = f" Control cells are those of {control}." if control else ""
    fitted = {"train": ", fitted on training cells", "real": ", fitted on the real cells"}
    return (
        f"{count(at(facts, 'n_generated'))} generated cells beside {count(at(facts, 'n_real'))} held-out real cells, "
        f"in {count(at(facts, 'n_compared'))} of {count(at(facts, 'n_conditions'))} conditions (values of "
        f"{text(at(facts, 'by'))}).{treated} Every cell was written as the names of its "
        f"{count(at(facts, 'top_k'))} most expressed genes, turned back into expression, and placed in a space of "
        f"{count(at(facts, 'n_dimensions'))} dimensions{fitted.get(at(facts, 'encoder_fitted_on'), '')}."
    )


def standings(evaluation: Evaluation, scope: str) -> dict[str, Standing]:
    """Return for each metric how generated cells stand in a scope."""
    rows = evaluation.table[evaluation.table["scope"] == scope]
    return {m: standing(rows[rows["metric"] == m]) for m in MEASURES if m in set(rows["metric"])}


def tally(found: Mapping[str, Standing]) -> str:
    """Say by how many measures generated cells stand where."""
    places = [each.place for each in found.values()]
    parts = [
        (places.count(place), name) for place, (name, _) in _STANDINGS.items() if place in places
    ]
    (n, first), *others = parts
    of = f"By {n} of {len(found)} measure{'s' * (len(found) > 1)}, generated cells are {first}"
    return "; ".join([of, *(f"by {n}, {name}" for n, name in others)]) + "."


def labels_recovered(facts: Mapping[str, Any]) -> str:
    """Say how often the nearest real cells have the condition that a generated cell was made for."""
    found = at(facts, "labels_recovered")
    if not found:
        return ""
    return (
        f"The nearest real cells are of the condition that was asked for in {percent(at(found, 'generated'))} of the "
        f"generated cells. For real cells that is {percent(at(found, 'real'))}: the rest lies between conditions. "
        "Generated cells above that are more typical than real ones."
    )


def round_trip(evaluation: Evaluation) -> dict[str, Any]:
    """Return what writing cells as sentences costs, by metric."""
    scope = "mean" if (evaluation.table["scope"] == "mean").any() else "together"
    wide = _wide(evaluation.table, scope)
    rows = [
        {
            "title": metric_title(metric),
            "direction": _direction(MEASURES[metric].metric),
            "through": _figure(cells["round_trip"]),
            "measured": _figure(cells.get("measured")),
        }
        for metric, cells in wide.items()
        if "round_trip" in cells
    ]
    r2 = at(evaluation.facts, "inverse.r2")
    fit = f" (R² {number(r2)} on its non-zero genes)" if finite(r2) is not None else ""
    return {
        "rows": rows,
        "words": (
            f"A sentence names {count(at(evaluation.facts, 'top_k'))} genes in order and no values. On the way back, "
            f"expression follows from rank by one line{fit}, and every gene that is not named becomes 0. All cells "
            "of this page took this way, so it favours none of them; but they are judged by what a sentence keeps. "
            "Below, real cells after the round trip stand against other real cells as they were measured, and beside "
            "that, real cells against real cells without sentences."
        ),
    }


def ties(evaluation: Evaluation) -> str:
    """Say what overlap the same cells have with themselves when ties are drawn anew."""
    for scope in ("mean", "together"):
        cell = _wide(evaluation.table, scope).get("overlap", {}).get("other_ties")
        if cell is not None:
            return (
                f"Many genes of a cell have the same count, and their order is drawn at random. The same real cells "
                f"with ties drawn anew share {number(cell['value'])} % of their genes "
                f"({_interval(cell)}): more overlap than that cannot be asked for."
            )
    return ""


def memorising(facts: Mapping[str, Any]) -> str:
    """Say whether generated cells lie suspiciously near to training cells."""
    found = at(facts, "memorisation")
    if not found:
        return (
            "Not checked: that takes the training cells, and none were given. Copies of training cells would score "
            "well everywhere on this page."
        )
    if at(found, "real_median") == 0:
        return (
            "Not to be told: most of the real cells lie on training cells, so they are among them. Give real cells "
            "that the generator was not trained on."
        )
    generated, real = told_apart((at(found, "generated_median"), at(found, "real_median")))
    share, ratio = at(found, "share_below_5th"), at(found, "median_ratio")
    suspicious = finite(share) is not None and float(share) > _COPIES
    verdict = (
        "There are more than twice as many as new cells would give: look for copies of training cells."
        if suspicious
        else "That is no sign of copies."
    )
    return (
        f"The nearest training cell is {generated} away from a generated cell and {real} from a held-out real cell "
        f"(medians; ratio {number(ratio)}, where 1 is right, far less means copies, and more means cells off the "
        f"data). {percent(share)} of the generated cells are as near as the nearest 5 % of the real cells; about 5 % "
        f"is right. {verdict}"
    )


def form(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return how well formed generated sentences are; nothing for cells that came as expression."""
    rows = []
    for name, value in (at(facts, "form") or {}).items():
        metric = METRICS.get(name)
        rows.append(
            {
                "title": metric.title if metric else "Distinct sentences",
                "value": percent(value),
                "words": metric.description
                if metric
                else "Share of sentences that no earlier generated cell has.",
            }
        )
    return rows


def glossary(table: pd.DataFrame) -> list[dict[str, str]]:
    """Return what each measure means, in the words of the metrics themselves."""
    measured = set(table["metric"])
    return [
        {
            "title": measure.title,
            "direction": _direction(measure.metric),
            "words": measure.metric.description,
            "unit": measure.metric.unit,
            "reference": measure.metric.reference,
        }
        for name, measure in MEASURES.items()
        if name in measured
    ]


def settings(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings that a reader looks for first."""
    of = "; ".join(text(at(facts, f"resampled.{key}")) for key in ("of", "column"))
    return [
        ("Encoder", text(at(facts, "encoder"))),
        ("Fitted on", text(at(facts, "encoder_fitted_on"))),
        ("Genes of a sentence", count(at(facts, "top_k"))),
        (
            "Genes measured",
            f"{count(at(facts, 'n_genes_measured'))} of {count(at(facts, 'n_genes'))} that all have",
        ),
        ("Training cells", count(at(facts, "n_train"))),
        ("Random halves", count(at(facts, "n_splits"))),
        ("Intervals over", of),
        ("Seed", text(at(facts, "seed"))),
    ]


def _groups(found: Mapping[str, Standing]) -> list[dict[str, str]]:
    """Return a sentence for all metrics of the same standing, the best first."""
    groups = []
    for place, (name, words) in _STANDINGS.items():
        by_floor: dict[str, list[str]] = {}
        for metric, each in found.items():
            if each.place == place:
                # Where a sentence names no floor, it is the same whatever the best one is.
                floor = FLOOR_NAMES.get(each.floor or "", "") if "{floor}" in words else ""
                by_floor.setdefault(floor, []).append(metric_title(metric))
        groups += [
            {"place": place, "name": name, "metrics": names(of), "words": words.format(floor=floor)}
            for floor, of in by_floor.items()
        ]
    return groups


def _candidates(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what each candidate is that the evaluation has."""
    present = set(table["candidate"])
    return [(TITLES[name], words) for name, words in CANDIDATES.items() if name in present]


def _wide(table: pd.DataFrame, scope: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a scope by metric and candidate, in the order of `MEASURES`."""
    found: dict[str, dict[str, Any]] = {}
    for row in table[table["scope"] == scope].to_dict("records"):
        found.setdefault(row["metric"], {})[row["candidate"]] = row
    return {metric: found[metric] for metric in MEASURES if metric in found}


def _table(evaluation: Evaluation, scope: str) -> dict[str, Any]:
    """Return a table of values with intervals: a row a metric, a column a candidate that competes."""
    wide = _wide(evaluation.table, scope)
    candidates = [
        name
        for name in CANDIDATES
        if name not in _ASIDE and any(name in cells for cells in wide.values())
    ]
    found = standings(evaluation, scope)
    rows = []
    for metric, cells in wide.items():
        shown = told_apart([at(cells.get(name), "value") for name in candidates])
        some = next(iter(cells.values()))
        rows.append(
            {
                "title": metric_title(metric),
                "direction": _direction(MEASURES[metric].metric),
                "cells": [
                    (value, _below(cells.get(name), some["n_conditions"]))
                    for name, value in zip(candidates, shown, strict=True)
                ],
                "place": found[metric].place,
                "standing": _STANDINGS[found[metric].place][0],
                "n": count(some["n_cells"]),
                "conditions": f"of {count(some['n_conditions'])} condition"
                + "s" * (some["n_conditions"] > 1),
            }
        )
    return {"candidates": [TITLES[name] for name in candidates], "rows": rows}


def _figure(row: Mapping[str, Any] | None) -> tuple[str, str]:
    return number(at(row, "value")), _interval(row)


def _below(row: Mapping[str, Any] | None, n_conditions: int) -> str:
    """Return the interval of a value, and of how many conditions it is, where others are of `n_conditions`."""
    words = _interval(row)
    own = at(row, "n_conditions")
    if row is None or own == n_conditions:
        return words
    return f"{words} (of {count(own)} condition{'s' * (own > 1)})".lstrip()


def _interval(row: Mapping[str, Any] | None) -> str:
    """Return "0.12 to 0.34", both ends to the same place; nothing where the interval is not known."""
    low, high = finite(at(row, "low")), finite(at(row, "high"))
    if low is None or high is None:
        return ""
    largest = max(abs(low), abs(high))
    decimals = 0 if largest == 0 else max(0, 2 - math.floor(math.log10(largest)))
    return f"{low:,.{decimals}f} to {high:,.{decimals}f}".replace("-", "−")


def _direction(metric: Metric) -> str:
    return f"{metric.best} is better, ideal {metric.ideal:g}"


def _flat(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return every fact with its name, those of mappings as "inverse.slope"."""
    rows = []
    for key, value in facts.items():
        inner = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {}
        rows += [(name, text(v)) for name, v in (inner or {key: value}).items()]
    return rows
