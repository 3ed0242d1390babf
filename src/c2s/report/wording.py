"""Numbers as people read them, and sentences that follow from numbers.

Units follow a no-break space, U+00A0, so that a line never starts with one.

Nothing here prints "nan" or "None": what is missing is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

DASH = "—"

Winner = Literal["model", "baseline", "tie"]


def finite(value: Any) -> float | None:
    """Return `value` as a float, or None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value) if math.isfinite(value) else None


def at(record: Any, path: str) -> Any:
    """Return what lies at a dotted path in nested mappings, None where there is nothing.

    Examples
    --------
    >>> at({"a": {"b": 1}}, "a.b"), at({"a": None}, "a.b")
    (1, None)
    """
    for key in path.split("."):
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def text(value: Any) -> str:
    """Return any value as text: a dash for what is missing, numbers as `number` writes them."""
    if value is None or value == "":
        return DASH
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, Integral):
        return str(int(value))  # seeds and years take no thousands separator
    if isinstance(value, Real):
        return number(value, digits=6)
    if isinstance(value, Sequence):
        return ", ".join(text(item) for item in value) or DASH
    return str(value)


def count(value: Any) -> str:
    """Return a whole number with thousands separators: `20,125`."""
    found = finite(value)
    return DASH if found is None else f"{round(found):,}"


def number(value: Any, digits: int = 3) -> str:
    """Return a number with so many significant digits: `0.0123`, `12.3`, `1,230`.

    Very large and very small numbers are written with a power of ten.
    """
    found = finite(value)
    if found is None:
        return DASH
    if found == 0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{found:.{digits - 1}e}"))))
    if not -4 <= size < 7:
        return _minus(f"{found:.{digits - 1}e}")
    return _minus(f"{found:,.{max(digits - 1 - size, 0)}f}")


def told_apart(values: Iterable[Any], digits: int = 3) -> list[str]:
    """Write numbers with as many digits, up to 8, as it takes for unequal ones to look unequal."""
    kept = list(values)
    distinct = {finite(value) for value in kept}
    while True:
        written = [number(value, digits) for value in kept]
        if digits >= 8 or len(set(written)) >= len(distinct):
            return written
        digits += 1


def percent(fraction: Any, decimals: int = 1) -> str:
    """Return a fraction in percent; `100 %` and `0 %` only where it is exactly that."""
    found = finite(fraction)
    if found is None:
        return DASH
    if found in (0.0, 1.0):
        return f"{found:.0%}".replace("%", "\u00a0%")
    written = f"{100 * found:.{decimals}f}"
    while float(written) in (0.0, 100.0) and decimals < 8:
        decimals += 1
        written = f"{100 * found:.{decimals}f}"
    return _minus(f"{written}\u00a0%")


def duration(seconds: Any) -> str:
    """Return a time for people: `48 s`, `5 min 48 s`, `2 h 3 min`."""
    found = finite(seconds)
    if found is None:
        return DASH
    if found < 9.95:
        return f"{found:.1f}\u00a0s"
    minutes, rest = divmod(round(found), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest}\u00a0s" if minutes else f"{rest}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60}\u00a0min"


def names(words: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def winner(model: Any, baseline: Any, best: Any, ideal: Any = None) -> Winner | None:
    """Say who has the better number; None where a number or the direction is missing.

    With an `ideal`, the nearer to it is the better: a two-sample classifier right in 0.2 of cases
    is further from chance than one right in 0.6, although lower is better as a rule.
    """
    mine, other = finite(model), finite(baseline)
    if mine is None or other is None or best not in ("lower", "higher"):
        return None
    goal = finite(ideal)
    if goal is not None:
        mine, other, best = abs(mine - goal), abs(other - goal), "lower"
    if mine == other:
        return "tie"
    return "model" if (mine < other) == (best == "lower") else "baseline"


def excess(value: Any, ceiling: Any, best: Any) -> float | None:
    """Return by how much `value` is worse than the ceiling; below 0 it is better."""
    found, limit = finite(value), finite(ceiling)
    if found is None or limit is None or best not in ("lower", "higher"):
        return None
    return found - limit if best == "lower" else limit - found


def versus(model: Any, other: Any, name: str) -> str:
    """Compare two fractions in percentage points: `1.3 points below logistic regression`."""
    mine, theirs = finite(model), finite(other)
    if mine is None or theirs is None:
        return f"{name} {percent(other)}"
    if mine == theirs:
        return f"equal to {name}"
    side = "above" if mine > theirs else "below"
    return f"{number(100 * abs(mine - theirs), 2)} points {side} {name}"


def tally(rows: Iterable[tuple[str, Winner | None]], unit: tuple[str, str]) -> str:
    """Say in how many comparisons each side has the better number, and name them.

    Parameters
    ----------
    rows : iterable of (name, winner)
        Comparisons; those without a winner are left out.
    unit : (str, str)
        What is counted, singular and plural.
    """
    known = [(name, who) for name, who in rows if who is not None]
    if not known:
        return f"No {unit[0]} could be compared."
    of = f"{len(known)} {unit[0] if len(known) == 1 else unit[1]}"
    parts = []
    for who, subject in (
        ("model", "the model is better than independent resampling"),
        ("baseline", "independent resampling is better than the model"),
        ("tie", "the two are equal"),
    ):
        won = [name for name, winning in known if winning == who]
        if won and len(won) == len(known):
            return f"In {'all ' if len(known) > 1 else ''}{of}, {subject}."
        if won:
            parts.append(f"{subject} in {len(won)} ({names(won)})")
    return f"Of {of}, {'; '.join(parts)}."


def _minus(written: str) -> str:
    """Put a true minus sign in place of the hyphen."""
    return written.replace("-", "−")
