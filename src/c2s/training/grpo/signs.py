"""Signs that a policy games its reward, found in the log of a run: what rose beside what was paid for it.

Every threshold is a choice of ours (not specified by the paper) and has its reason beside it. A sign is a reason to
look, and no proof: measures of a run are one draw of cells each, without intervals.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: Diversity below this share of what it was, or of that of real cells where it was more: real cells of a condition
#: that were not looked at before have 0.8 to 1.1, so less is outside what real cells do.
LEAST_DIVERSITY = 0.8
#: Share of cells that no earlier one of their group equals: two cells of a hundred genes are never equal by chance, and
#: a few equal ones of 200 may be an accident.
LEAST_UNIQUE = 0.95
#: Loss of validity: of 200 held-out cells, one is 0.005.
LOST_VALIDITY = 0.01
#: Loss of what the network itself gives to allowed tokens: 0.02 a token is one more word in 50 that is not allowed.
LOST_ALLOWED = 0.02
#: Change of the mean number of genes, as a share: what a constraint holds does not change, what a reward drives does.
CHANGED_GENES = 0.02
#: KL from the model before, in nats a token: a cell of 100 genes then is e^10, 20,000 times, less probable there.
MOST_KL = 0.1
#: Entropy of the choices, as a share of what it was: half as much is as if the number of genes to choose from had
#: become its square root.
LEAST_ENTROPY = 0.5
#: Rise of a distance that was not rewarded, as a share: a smaller one drowns in the draw of a few hundred cells.
WORSE_DISTANCE = 0.1
#: Loss of accuracy in a task with labels: of 256 held-out samples, 5.
LOST_ACCURACY = 0.02
#: Genes in common with the nearest training cell, beyond what validation cells have: of 100 genes, 5.
COPIED_OVERLAP = 0.05
#: KL below which a policy is what it was: a cell of 100 genes then is as probable as before, up to a hundredth.
NO_KL = 1e-4
#: Part of a run that its beginning and its end are the means of: single steps have few answers.
_PART = 10

#: Distances from real cells; lower is better.
_DISTANCES = {"scfid": "scFID", "energy_distance": "energy distance"}
#: Measures that have another name than the reward of them.
_MEASURE_OF = {"validity": "valid"}

Log = Sequence[Mapping[str, Any]]


def signs_of_hacking(
    before: Mapping[str, float | None],
    after: Mapping[str, float | None],
    log: Log,
    rewards: Mapping[str, float] | None = None,
) -> list[str]:
    """Look for signs that a policy games its reward.

    Parameters
    ----------
    before, after
        Measures of held-out cells by name, of `run.json`; what is missing or no number is not looked at.
    log
        Records of `log.jsonl`.
    rewards
        Weights of rewards by name; one of weight 0 is only measured. By default all that the log has were rewarded.

    Returns
    -------
    list of str
        A line each, with the numbers; empty where there is none. Looked for are: diversity that collapses, equal
        cells, invalid cells, another number of genes, less that is allowed where nothing constrains the model, KL above
        0.1 nats a token, entropy that fell by more than half, distances that were not rewarded and got worse by more
        than a tenth while the reward rose, label tasks that lost more than 0.02 of accuracy, and cells that are nearer
        to a training cell than real ones are; and a rewarded distance that got worse by more than a tenth. Of a policy
        that has hardly moved only that is said.

    Examples
    --------
    >>> signs_of_hacking({"diversity": 1.0}, {"diversity": 0.3}, [])
    ['diversity fell from 1 to 0.3 of that of real cells: answers become alike (collapse)']
    """
    known: dict[str, tuple[float, float]] = {}
    for name, value in after.items():
        was, now = _number(before.get(name)), _number(value)
        if was is not None and now is not None:
            known[name] = was, now
    paid = measures_of(dict.fromkeys(rewarded(log), 1.0) if rewards is None else rewards)
    moved = _ends(log, "kl")[1]
    if moved is not None and moved < NO_KL:
        # What differs then is the draw of cells.
        return [
            f"KL from the model before is {moved:.1g} nats a token: the policy has hardly moved; take more steps, or a "
            "higher optimisation.learning_rate"
        ]
    return [
        *_of_cells(known),
        *_of_distances(known, log, paid),
        *_of_tasks(known),
        *_without_constraint(known),
        *_of_policy(log),
    ]


def rewarded(log: Log) -> list[str]:
    """Return the names of what was rewarded, as the log of a run has them."""
    names = (
        k for record in log for k in record if k.startswith("rewards/") and k.endswith("/mean")
    )
    return list(dict.fromkeys(name.split("/")[1] for name in names))


def measures_of(rewards: Mapping[str, float]) -> set[str]:
    """Return the measures that rewards pay for, by weights under the names that a run has rewards under.

    Examples
    --------
    >>> sorted(measures_of({"scfid_2": 1.0, "validity": 0.5, "energy_distance": 0.0}))
    ['scfid', 'valid']
    """
    # The second of a name is name_2; one of weight 0 is only measured.
    plain = (name.rstrip("_0123456789") for name, weight in rewards.items() if weight)
    return {_MEASURE_OF.get(name, name) for name in plain}


def series(log: Log, name: str) -> tuple[list[int], list[float]]:
    """Return steps and values of a number of the log, in the order of the steps; gaps stay gaps."""
    found = [(int(r["step"]), value) for r in log if (value := _number(r.get(name))) is not None]
    found.sort(key=lambda point: point[0])
    return [step for step, _ in found], [value for _, value in found]


def shares_of_time(log: Log) -> dict[str, float]:
    """Return what the parts of a step took, as shares of the time of steps, in the order in which they come.

    Measuring held-out cells and writing checkpoints belong to no step. The first step that is logged, in which kernels
    are compiled, is left out where there are others.

    Parameters
    ----------
    log
        Records of `log.jsonl`.

    Returns
    -------
    dict
        ``rollouts``, ``rewards``, ``watching`` (measures that are not rewarded), ``log-probabilities`` (of the
        reference, before learning) and ``updates``; they add to 1. Empty where no step was logged.
    """
    steps = [r for r in log if _number(r.get("step_time"))]
    steps = steps[1:] or steps

    def total(name: str) -> float:
        return sum(_number(r.get(name)) or 0.0 for r in steps)

    whole, drawn = total("step_time"), total("time/drawn")
    if not whole:
        return {}
    parts = {
        "rollouts": total("time/rollout"),
        "rewards": total("time/reward"),
        "watching": total("time/watch"),
    }
    parts["log-probabilities"] = max(drawn - sum(parts.values()), 0.0)
    parts["updates"] = max(whole - drawn, 0.0)
    whole = sum(parts.values())  # the same, up to the clock
    return {name: seconds / whole for name, seconds in parts.items()}


def _of_cells(pairs: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Yield what is seen in generated cells alone."""
    was, now = pairs.get("diversity", (0.0, 0.0))
    if now < LEAST_DIVERSITY * min(was, 1.0):
        yield (
            f"diversity fell from {was:.3g} to {now:.3g} of that of real cells: answers become alike (collapse)"
        )
    if "genes" not in pairs:
        return  # of labels, right ones are equal
    was, now = pairs.get("unique", (1.0, 1.0))
    if now < min(LEAST_UNIQUE, was):
        yield f"{1 - now:.1%} of cells equal another of their group word for word; before {1 - was:.1%}"
    was, now = pairs.get("valid", (1.0, 1.0))
    if now < was - LOST_VALIDITY:
        yield f"valid cells fell from {was:.1%} to {now:.1%}"
    was, now = pairs["genes"]
    if abs(now - was) > CHANGED_GENES * was:
        yield f"genes of a cell went from {was:.4g} to {now:.4g} on average"
    was, now = pairs.get("nearest_overlap", (0.0, 0.0))
    usual = pairs.get("nearest_overlap_real", (math.inf, math.inf))[1]
    if now > was and now > usual + COPIED_OVERLAP:
        yield (
            f"generated cells have {now:.1%} of genes in common with the nearest training cell, before {was:.1%}; real "
            f"cells have {usual:.1%}: cells may be copied"
        )


def _of_distances(
    pairs: Mapping[str, tuple[float, float]], log: Log, paid: set[str]
) -> Iterator[str]:
    """Yield distances that were not rewarded and got worse while the reward rose."""
    first, last = _ends(log, "reward")
    for name, title in _DISTANCES.items():
        was, now = pairs.get(name, (0.0, 0.0))
        # An unbiased distance may lie below 0.
        if now - was > WORSE_DISTANCE * abs(was):
            if name in paid:
                yield (
                    f"{title}, which was rewarded, rose from {was:.3g} to {now:.3g} on held-out cells: what was "
                    "learned is of no use to them, or the steps were too long"
                )
            elif first is not None and last is not None and _rose(log, "reward"):
                yield (
                    f"{title}, which was not rewarded, rose from {was:.3g} to {now:.3g} while the reward rose from "
                    f"{first:.3g} to {last:.3g}"
                )


def _of_tasks(pairs: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Yield tasks that are forgotten."""
    for name, (was, now) in pairs.items():
        # 0.02 of accuracy is no more than 0.02 for the rounding of the last bit.
        if name.startswith("accuracy_") and was - now > LOST_ACCURACY + 1e-9:
            task = name.removeprefix("accuracy_")
            yield f"accuracy of {task} fell from {was:.1%} to {now:.1%}: the task is being forgotten"


def _without_constraint(pairs: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Yield what the constraint hides."""
    was, now = pairs.get("allowed", (0.0, 0.0))
    if was - now > LOST_ALLOWED + 1e-9:
        yield (
            f"the model itself gives what is allowed a probability of {now:.1%} a token, before {was:.1%}: it comes to "
            "need its constraint"
        )


def _of_policy(log: Log) -> Iterator[str]:
    """Yield what is seen in the policy itself."""
    _, kl = _ends(log, "kl")
    if kl is not None and kl > MOST_KL:
        yield f"KL from the model before is {kl:.3g} nats a token, above {MOST_KL:g}: it is far from what it knew"
    was, now = _ends(log, "entropy")
    if was is not None and now is not None and now < LEAST_ENTROPY * was:
        yield f"entropy of the choices fell from {was:.3g} to {now:.3g} nats: few answers are left"


def _ends(log: Log, name: str) -> tuple[float | None, float | None]:
    """Return the means of a number over the first and over the last tenth of its records."""
    values = series(log, name)[1]
    if not values:
        return None, None
    n = max(1, len(values) // _PART)
    return sum(values[:n]) / n, sum(values[-n:]) / n


def _rose(log: Log, name: str) -> bool:
    """Return whether a number rose: by more than twice the standard error, from the first third of steps to the last.

    Steps ask other prompts, whose rewards differ.
    """
    values = series(log, name)[1]
    n = max(1, len(values) // 3)
    first, last = values[:n], values[-n:]
    rise = sum(last) / n - sum(first) / n
    if n == 1:
        return rise > 0
    spread = statistics.variance(first) + statistics.variance(last)
    return rise > 2 * math.sqrt(spread / n)


def _number(value: Any) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
