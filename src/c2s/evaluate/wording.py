"""Words for what an evaluation found: names of candidates, how generated cells stand, and what was left out."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from c2s.common.errors import listing
from c2s.evaluate.measures import MEASURES

if TYPE_CHECKING:
    import pandas as pd

    from c2s.evaluate.result import Evaluation

#: What each candidate is called where there is room for two or three words.
TITLES = {
    "generated": "generated",
    "ceiling": "ceiling: real cells",
    "independent": "floor: independent genes",
    "control": "floor: control cells",
    "mean_shift": "floor: mean shift",
    "other_donors": "other donors",
    "other_ties": "other ties",
    "round_trip": "round trip",
    "measured": "without round trip",
}

#: Candidates that take no model.
_FLOORS = ("independent", "control", "mean_shift")

#: More conditions than this are counted, not named.
_NAMED = 3

# A number that stands for itself, not a part of a name ("IFN-2", "'24'", "0.5").
_NUMBER = re.compile(r"(?<![\w.'\"-])\d+(?:,\d{3})*(?![\w'\"-]|\.\d)")


#: How generated cells stand by one metric: "ceiling", not told from real cells, and nearer than every floor; "blunt",
#: told from neither; "mixed", not told from real cells, with a floor that is nearer; "above", nearer than every floor;
#: "beyond", nearer than other real cells even; "same", not told from the best floor; "below", further off than it;
#: "behind", further off than real cells, without any floor; "unknown", no interval to judge by.
Place = Literal[
    "ceiling", "blunt", "mixed", "above", "beyond", "same", "below", "behind", "unknown"
]


_PLACES: dict[Place, str] = {
    "ceiling": "not told apart from real cells",
    "blunt": "not told apart from real cells, nor from {floor}",
    "mixed": "not told apart from real cells, but {floor} is nearer",
    "above": "better than every floor",
    "beyond": "nearer than other real cells",
    "same": "not told apart from {floor}",
    "below": "worse than {floor}",
    "behind": "worse than real cells",
    "unknown": "",
}


@dataclass(frozen=True)
class Standing:
    """How generated cells stand between ceiling and floors by one metric.

    Attributes
    ----------
    place
        See `Place`.
    floor
        The best floor, where there is one.
    """

    place: Place
    floor: str | None

    @property
    def text(self) -> str:
        """The place in a few words."""
        return _PLACES[self.place].format(floor=self.floor)


def standing(rows: pd.DataFrame) -> Standing:
    """Judge generated cells by one metric in one scope.

    Two candidates are told apart where the interval of their difference does not hold 0, and the nearer one is that
    nearer to the metric's ideal. A floor that only some conditions have is judged by those: the generated cells' value
    there is its own less the difference.

    Parameters
    ----------
    rows
        Of `Evaluation.table`: one scope, condition and metric.
    """
    found = {r["candidate"]: r for r in rows.to_dict("records") if np.isfinite(r["value"])}
    ours, ceiling = found.get("generated"), found.get("ceiling")
    if ours is None:
        return Standing("unknown", None)
    metric = MEASURES[ours["metric"]].metric

    def lead(row: Mapping[Hashable, Any]) -> float:
        """Return by how much generated cells are nearer to the ideal, over the conditions that both have."""
        if metric.ideal == 0:  # not the gap: an unbiased distance below 0 is no further off than 0
            return float(row["difference"])
        return metric.gap(row["value"]) - metric.gap(row["value"] - row["difference"])

    floors = [found[name] for name in _FLOORS if name in found]
    best = min(floors, key=lead, default=None)
    name = None if best is None else str(best["candidate"])
    judges = [row for row in (ceiling, best) if row is not None]
    if not judges or not all(np.isfinite(row["difference_low"]) for row in judges):
        return Standing("unknown", name)
    real_too = ceiling is not None and not _apart(ceiling)
    nearer = best is None or lead(best) > 0
    if best is not None and not _apart(best):
        return Standing("blunt" if real_too else "same", name)
    if real_too:
        return Standing("ceiling" if nearer else "mixed", name)
    if not nearer:
        return Standing("below", name)
    # Not by the gap to the ideal: an unbiased distance between halves that are matched may lie below 0.
    if ceiling is not None and (ours["value"] < ceiling["value"]) == (metric.best == "lower"):
        return Standing("beyond", name)
    return Standing("behind" if best is None else "above", name)


def _apart(row: Mapping[Hashable, Any]) -> bool:
    return not row["difference_low"] <= 0 <= row["difference_high"]


def metric_title(name: str) -> str:
    """Return the heading of a measure; a name that is none is returned as it is."""
    return MEASURES[name].title if name in MEASURES else name


def left_out_summary(evaluation: Evaluation) -> list[str]:
    """Say what was left out and why, a sentence for all rows that differ in numbers and conditions only.

    Parameters
    ----------
    evaluation
        As `c2s.evaluate.compare.evaluate` gives it.

    Returns
    -------
    list of str
        As "scFID: 11 of 12 conditions: 1 to 23 cells on each side, 80 are needed"; empty where nothing was left out.
    """
    groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for row in evaluation.left_out.to_dict("records"):
        key = (row["candidate"], row["metric"], _NUMBER.sub("#", row["reason"]))
        groups.setdefault(key, []).append((row["condition"], row["reason"]))
    # Metrics of the same reason and the same conditions share a sentence.
    merged: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for (candidate, metric, _), rows in groups.items():
        conditions = tuple(sorted(condition for condition, _ in rows if condition))
        reason = _in_one([reason for _, reason in rows])
        merged.setdefault((candidate, conditions, reason), []).append(metric)
    return [
        f"{_subject(candidate, metrics)}: {_where(evaluation, bool(candidate or any(metrics)), conditions)}{reason}"
        for (candidate, conditions, reason), metrics in merged.items()
    ]


def _in_one(reasons: Sequence[str]) -> str:
    """Write reasons that differ in numbers only as one, with the range of each number."""
    numbers = [[int(n.replace(",", "")) for n in _NUMBER.findall(reason)] for reason in reasons]
    ranges = [
        f"{min(column):,}" if min(column) == max(column) else f"{min(column):,} to {max(column):,}"
        for column in zip(*numbers, strict=True)
    ]
    parts = _NUMBER.split(reasons[0])
    return parts[0] + "".join(n + rest for n, rest in zip(ranges, parts[1:], strict=True))


def _subject(candidate: str, metrics: Sequence[str]) -> str:
    """Name what was left out."""
    if "memorisation" in metrics:
        return "Check for memorising"
    words = [metric_title(metric) for metric in metrics if metric]
    if candidate:
        title = TITLES.get(candidate, candidate)
        words.insert(0, title[:1].upper() + title[1:])
    return listing(words) if words else "Not compared"


def _where(evaluation: Evaluation, is_compared: bool, conditions: Sequence[str]) -> str:
    """Say in how many conditions, and name them where they are few; nothing where it is about all."""
    if not conditions:
        return ""
    total = evaluation.facts["n_compared" if is_compared else "n_conditions"]
    if len(conditions) == total > 1:
        return f"all {total:,} conditions: "
    named = f" ({', '.join(conditions)})" if len(conditions) <= _NAMED else ""
    return f"{len(conditions):,} of {total:,} conditions{named}: "
