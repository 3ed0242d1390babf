"""What the demo's report says: every word that depends on a number is made here from that number.

`page` returns nested dictionaries of finished text, which `demo.html` only lays out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.report import figures
from c2s.report.wording import (
    DASH,
    Winner,
    at,
    count,
    duration,
    excess,
    finite,
    number,
    percent,
    tally,
    text,
    told_apart,
    versus,
    winner,
)

if TYPE_CHECKING:
    from c2s.report.demo import DemoResults

Notes = Mapping[str, Mapping[str, Any]]

#: Names of metrics as they stand in a sentence; others are shown as they are.
TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "Macro-F1",
    "ece": "expected calibration error",
    "scfid": "scFID",
    "energy_distance": "energy distance",
    "mmd2": "MMD²",
    "wasserstein": "Wasserstein distance",
    "c2st": "classifier two-sample test",
    "nearest_training_distance": "distance to the nearest training cell",
    "valid_fraction": "valid genes",
    "unique_fraction": "genes not repeated",
    "exact_k_fraction": "exact length",
}
_GENERATION = ("scfid", "energy_distance", "mmd2", "wasserstein", "c2st")
_WHO = {"model": "model", "baseline": "resampling", "tie": "equal", None: DASH}
_STRIP_WIDTH = 132.0  # user units of the drawings that show a row's numbers on a line
_STRIP_MARGIN = 8.0


def page(results: DemoResults) -> dict[str, Any]:
    """Return everything that the template shows apart from the figures."""
    metrics, notes = results.metrics, results.metric_notes or {}
    return {
        "title": f"c2s demo: {text(at(metrics, 'dataset.name'))}",
        "summary": summary(metrics),
        "top_k": count(at(metrics, "generation.top_k")),
        "tiles": tiles(metrics, notes),
        "legend": figures.cell_type_colours(results),
        "annotation": annotation(metrics),
        "generation": generation(metrics, notes),
        "memory": memory(metrics, results.nearest),
        "inverse": inverse(metrics),
        "training": training(metrics, results.losses),
        "examples": examples(results.examples),
        "glossary": glossary(notes),
        "provenance": provenance(metrics, results.recipe or {}),
        "citation": text(at(metrics, "dataset.citation")),
    }


def summary(metrics: Mapping[str, Any]) -> str:
    """Return the sentence that says what was done."""
    return (
        f"A language model of {count(at(metrics, 'training.parameters'))} parameters was trained "
        f"for {duration(at(metrics, 'training.seconds'))} on "
        f"{count(at(metrics, 'dataset.split.train'))} cells of "
        f"{text(at(metrics, 'dataset.name'))}. "
        f"It then named the type of {count(at(metrics, 'annotation.n_test'))} cells that were held "
        f"out, and wrote {count(at(metrics, 'generation.n_cells'))} cells of its own."
    )


def tiles(metrics: Mapping[str, Any], notes: Notes) -> list[dict[str, Any]]:
    """Return the key numbers, each beside what it is to be compared with."""
    a, g = at(metrics, "annotation"), at(metrics, "generation")
    logistic = at(a, "baselines.logistic_regression.accuracy")
    scfid, resampling, ceiling = told_apart(
        (at(g, "scfid"), at(g, "baselines.independent.scfid"), at(g, "scfid_ceiling"))
    )
    generated, real = told_apart(
        (at(g, "nearest_training_distance"), at(g, "nearest_training_distance_real"))
    )
    return [
        {
            "name": "Annotation accuracy",
            "value": percent(at(a, "accuracy")),
            "lines": [
                f"interval {_interval(at(a, 'accuracy_interval'))}",
                f"logistic regression {percent(logistic)}",
            ],
            "verdict": versus(at(a, "accuracy"), logistic, "logistic regression")
            if finite(logistic) is not None
            else DASH,
        },
        {
            "name": f"Generation, scFID{_arrow(notes, 'scfid')}",
            "value": scfid,
            "lines": [f"independent resampling {resampling}", f"real against real {ceiling}"],
            "verdict": _verdict(_who(g, "scfid", notes)),
        },
        {
            "name": "Valid genes",
            "value": percent(at(g, "valid_fraction")),
            "lines": [
                f"genes not repeated {percent(at(g, 'unique_fraction'))}",
                f"exactly {count(at(g, 'top_k'))} genes {percent(at(g, 'exact_k_fraction'))}",
            ],
            "verdict": f"{count(at(g, 'n_cells'))} cells",
        },
        {
            "name": "Distance to the nearest training cell",
            "value": generated,
            "lines": [f"held-out real cells {real}"],
            "verdict": _nearer(g),
        },
    ]


def annotation(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of methods, the table of types and what they come to."""
    found = at(metrics, "annotation")
    baselines = at(found, "baselines")
    methods = [("model", "This model", found)]
    for key, title in (
        ("logistic_regression", "Logistic regression"),
        ("knn", "Nearest neighbours"),
    ):
        methods.append((key, title, at(baselines, key)))
    accuracy = at(found, "accuracy")
    comparisons = [
        versus(accuracy, at(record, "accuracy"), title.lower())
        for key, title, record in methods
        if key != "model" and finite(at(record, "accuracy")) is not None
    ]
    verdict = f"The model names {percent(accuracy)} of {count(at(found, 'n_test'))} cells correctly"
    return {
        "verdict": ", ".join([verdict, *comparisons]) + ".",
        "interval": _interval(at(found, "accuracy_interval")),
        "ece": number(at(found, "ece")),
        "methods": [
            {
                "name": title,
                "accuracy": percent(at(record, "accuracy")),
                "macro_f1": percent(at(record, "macro_f1")),
            }
            for _, title, record in methods
        ],
        "types": [
            {
                "name": text(at(row, "cell_type")),
                "n": count(at(row, "n")),
                "precision": percent(at(row, "precision")),
                "recall": percent(at(row, "recall")),
                "f1": percent(at(row, "f1")),
                "bar": _share(at(row, "f1")),
            }
            for row in at(found, "per_type") or []
        ],
    }


def generation(metrics: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    """Return how near generated cells come to real ones, over all types and type by type."""
    found = at(metrics, "generation")
    overall = [
        _comparison(
            TITLES[key],
            key,
            at(found, key),
            at(found, f"baselines.independent.{key}"),
            at(found, f"{key}_ceiling"),
            notes,
        )
        for key in _GENERATION
    ]
    types = []
    for row in at(found, "per_type") or []:
        key = text(at(row, "metric"))
        values = (at(row, "model"), at(row, "independent"), at(row, "ceiling"))
        compared = _comparison(text(at(row, "cell_type")), key, *values, notes)
        compared |= {"n": count(at(row, "n_real")), "title": _title(at(row, "metric"))}
        types.append(compared)
    return {
        "overall": overall,
        "types": types,
        "verdict": tally(_named(overall), ("measure", "measures")),
        "type_verdict": tally(_named(types), ("cell type", "cell types")),
        "round_trip": number(at(found, "round_trip.scfid")),
        "validity": (
            f"Of the words written, {percent(at(found, 'valid_fraction'))} are genes of the data "
            f"and {percent(at(found, 'unique_fraction'))} repeat no gene of their cell; "
            f"{percent(at(found, 'exact_k_fraction'))} of the cells have exactly "
            f"{count(at(found, 'top_k'))} genes."
        ),
    }


def memory(metrics: Mapping[str, Any], nearest: Mapping[str, Any] | None) -> dict[str, str]:
    """Return whether generated cells lie suspiciously near to training cells."""
    found = at(metrics, "generation")
    generated, real, resampled = told_apart(
        (
            at(found, "nearest_training_distance"),
            at(found, "nearest_training_distance_real"),
            at(found, "baselines.independent.nearest_training_distance"),
        )
    )
    return {
        "verdict": (
            f"The nearest training cell is {generated} away from generated cells, {real} from "
            f"held-out real cells and {resampled} from independently resampled ones: "
            f"{_nearer(found)}."
        ),
        "tail": _tail(nearest),
    }


def inverse(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the fitted line and how well it does."""
    found = at(metrics, "inverse")
    return [
        ("Slope", number(at(found, "slope"), 4)),
        ("Intercept", number(at(found, "intercept"), 4)),
        ("R²", number(at(found, "r2"), 3)),
        ("Pearson", number(at(found, "pearson"), 3)),
        ("Spearman", number(at(found, "spearman"), 3)),
        ("Cells", count(at(found, "n_cells"))),
    ]


def training(
    metrics: Mapping[str, Any], losses: Sequence[Mapping[str, Any]] | None
) -> dict[str, str]:
    """Return what was trained and over how many records the curves are averaged."""
    found = at(metrics, "training")
    window = figures.smoothing(losses or [])
    return {
        "text": (
            f"{count(at(found, 'parameters'))} parameters, {count(at(found, 'steps'))} steps, "
            f"{duration(at(found, 'seconds'))}."
        ),
        "smoothing": f"Training losses are running means of {window} records."
        if window > 1
        else "",
    }


def examples(found: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the first genes of generated cells beside those of real ones, shared ones marked."""
    rows = []
    for example in found or []:
        generated = list(at(example, "generated") or [])[:12]
        real = list(at(example, "real") or [])[:12]
        shared = set(generated) & set(real)
        rows.append(
            {
                "cell_type": text(at(example, "cell_type")),
                "generated": [(gene, gene in shared) for gene in generated],
                "real": [(gene, gene in shared) for gene in real],
                "shared": f"{len(shared)} of {len(generated)} shared",
            }
        )
    return rows


def glossary(notes: Notes) -> list[dict[str, str]]:
    """Return what each number means, in the words of the metrics themselves."""
    return [
        {
            "name": _title(key),
            "key": key,
            "text": text(at(note, "description")),
            "direction": _direction(note),
        }
        for key, note in notes.items()
    ]


def provenance(metrics: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what made these numbers: data, recipe, seed, versions and where the time went."""
    data = at(metrics, "dataset")
    stages = {str(k): finite(v) for k, v in (at(metrics, "seconds_by_stage") or {}).items()}
    longest = max((s for s in stages.values() if s is not None), default=0.0) or 1.0
    return {
        "facts": [
            ("Data", text(at(data, "name"))),
            ("Cells × genes", f"{count(at(data, 'n_cells'))} × {count(at(data, 'n_genes'))}"),
            ("Training / validation / test cells", " / ".join(
                count(at(data, f"split.{part}")) for part in ("train", "val", "test")
            )),
            ("Seed", text(at(metrics, "seed"))),
            ("Time in all", duration(at(metrics, "seconds"))),
        ],
        "stages": [
            {"name": name, "time": duration(s), "bar": _share((s or 0.0) / longest)}
            for name, s in stages.items()
        ],
        "versions": [(str(k), text(v)) for k, v in (at(metrics, "versions") or {}).items()],
        "recipe": list(_flat(recipe)),
    }  # fmt: skip


def _comparison(
    name: str, metric: str, model: Any, baseline: Any, ceiling: Any, notes: Notes
) -> dict[str, Any]:
    """Return one row: the numbers, who has the better one, how far each is from the ceiling."""
    best, ideal = at(notes.get(metric), "best"), at(notes.get(metric), "ideal")
    who = winner(model, baseline, best, ideal)
    shown = told_apart((model, baseline, ceiling))
    far = told_apart((excess(model, ceiling, best), excess(baseline, ceiling, best)), 2)
    return {
        "name": name,
        "title": _title(metric),
        "direction": _direction(notes.get(metric)),
        "model": shown[0],
        "baseline": shown[1],
        "ceiling": shown[2],
        "who": who,
        "winner": _WHO[who],
        "far": "" if DASH in far else f"{_signed(far[0])} and {_signed(far[1])} from the ceiling",
        "strip": _strip(model, baseline, ceiling, ideal),
    }


def _strip(*values: Any) -> dict[str, Any] | None:
    """Return x positions of model, baseline, ceiling and ideal on one line, None if all missing.

    The line spans the numbers that there are; lower numbers are further left.
    """
    found = [finite(value) for value in values]
    there = [value for value in found if value is not None]
    if found[0] is None and found[1] is None:
        return None
    low, high = min(there), max(there)
    span = (high - low) or 1.0
    scale = (_STRIP_WIDTH - 2 * _STRIP_MARGIN) / span
    places = [
        None if value is None else round(_STRIP_MARGIN + (value - low) * scale, 1)
        for value in found
    ]
    return dict(zip(("model", "baseline", "ceiling", "ideal"), places, strict=True)) | {
        "width": _STRIP_WIDTH
    }


def _named(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, Winner | None]]:
    return [(row["name"], row["who"]) for row in rows]


def _who(generation: Any, key: str, notes: Notes) -> Winner | None:
    note = notes.get(key)
    values = (at(generation, key), at(generation, f"baselines.independent.{key}"))
    return winner(*values, at(note, "best"), at(note, "ideal"))


def _verdict(who: Winner | None) -> str:
    if who is None:
        return DASH
    if who == "tie":
        return "equal to independent resampling"
    return f"{'better' if who == 'model' else 'worse'} than independent resampling"


def _nearer(generation: Any) -> str:
    """Compare the distances from the training cells of generated and of held-out real cells."""
    generated = finite(at(generation, "nearest_training_distance"))
    real = finite(at(generation, "nearest_training_distance_real"))
    if generated is None or real is None:
        return DASH
    if generated == real:
        return "generated cells are as far as new real cells"
    side = "further away" if generated > real else "nearer"
    if real == 0:
        return f"generated cells are {side} than new real cells"
    return f"generated cells are {percent(abs(generated / real - 1), 0)} {side} than new real cells"


def _tail(nearest: Mapping[str, Any] | None) -> str:
    """Say what share of generated cells is as near as the nearest twentieth of real cells."""
    parts = [at(nearest, kind) for kind in ("generated", "real")]
    if any(part is None or len(part) == 0 for part in parts):
        return DASH
    generated, real = (np.asarray(part, dtype=np.float64) for part in parts)
    share = float(np.mean(generated <= np.quantile(real, 0.05)))
    return (
        f"{percent(share)} of generated cells are as near to a training cell as the nearest 5 % of "
        "held-out real cells; 5 % is what new real cells would give, and copies would give more."
    )


def _title(metric: Any) -> str:
    """Return the name of a metric as it stands at the start of a line."""
    if metric not in TITLES:
        return text(metric)
    name = TITLES[metric]
    return name[0].upper() + name[1:] if name.split()[0].islower() else name


def _direction(note: Any) -> str:
    best, ideal = at(note, "best"), at(note, "ideal")
    if best not in ("lower", "higher"):
        return DASH
    return f"{best} is better" + (f", ideal {finite(ideal):g}" if finite(ideal) is not None else "")


def _arrow(notes: Notes, key: str) -> str:
    best = at(notes.get(key), "best")
    return f" ({best} is better)" if best in ("lower", "higher") else ""


def _interval(interval: Any) -> str:
    ends = (
        interval
        if isinstance(interval, Sequence | np.ndarray) and len(interval) == 2
        else (None, None)
    )
    low, high = (percent(end) for end in ends)
    return DASH if DASH in (low, high) else f"{low[:-2]} to {high}"  # the unit once, at the end


def _signed(written: str) -> str:
    return written if written.startswith("−") or written == "0" else f"+{written}"


def _share(fraction: Any) -> str:
    """Return a CSS width for a fraction."""
    found = finite(fraction)
    return f"{100 * min(max(found or 0.0, 0.0), 1.0):.1f}%"


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield the settings of nested mappings as (dotted name, value)."""
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", DASH if value == {} else text(value)
