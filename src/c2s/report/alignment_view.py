"""What the report of an alignment says: every word that depends on a number is made here from that number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from c2s.plots.alignment import measure_title
from c2s.report.wording import DASH, count, duration, names, number, percent, text, told_apart
from c2s.training.grpo.card import run_name
from c2s.training.grpo.signs import Log, measures_of, series, shares_of_time, signs_of_hacking

#: Measures that stand in a panel or a row of their own, in this order; accuracies follow.
_MEASURES = (
    "scfid", "energy_distance", "diversity", "unique", "valid", "allowed", "genes", "words", "nearest_overlap",
    "nearest_overlap_real",
)  # fmt: skip
_LOWER = {"scfid", "energy_distance"}
_HIGHER = {"unique", "valid", "allowed"}
#: Shares, which are written in percent.
_SHARES = {"unique", "valid", "allowed", "nearest_overlap", "nearest_overlap_real"}
#: Of a step, at most, for rewards (a target of ours).
_REWARD_TIME = 0.05

#: What each measure says; in the order of the table.
GLOSSARY = {
    "scfid": "Fréchet distance of generated cells from real cells of the condition; it falls with their "
    "number, so only equal numbers are compared.",
    "energy_distance": "Energy distance of generated cells from real cells of the condition; 0 is equal, and an "
    "estimate may lie below.",
    "diversity": "Mean distance of two answers to a prompt, as a share of that of two real cells. Towards 0 the policy "
    "collapses onto one answer.",
    "unique": "Share of answers that no earlier one to the same prompt equals word for word.",
    "valid": "Share of cells of exactly the asked number of known genes, none twice. Constrained answers are "
    "always valid.",
    "allowed": "Probability that the network gives to all that the constraint allows, were there no constraint; a mean "
    "over tokens. The constraint hides it when it falls.",
    "nearest_overlap": "Share of genes that a generated cell has in common with the nearest training cell of "
    "its condition. Far above that of real cells, cells are copied.",
    "kl": "How far the policy is from the model before, as k3: 0 is equal.",
    "entropy": "How open the choice of the next token is, among what the constraint allows.",
}


def page(facts: Mapping[str, Any], recipe: Mapping[str, Any], log: Log) -> dict[str, Any]:
    """Return everything that the template shows apart from the figures.

    Parameters
    ----------
    facts, recipe, log
        `run.json`, `recipe.yaml` and `log.jsonl` of a run.
    """
    before, after, paid = facts["before"], facts["after"], measures_of(facts["rewards"])
    return {
        "title": f"Alignment on {str(facts['task']).replace('_', ' ')}",
        "lead": _lead(facts, recipe),
        "signs": signs_of_hacking(before, after, log, facts["rewards"]),
        "rewards": _rewards(recipe),
        "only_rewarded": _only_rewarded(facts, log),
        "measures": [_row(n, before, after, n in paid) for n in measures(facts, log)],
        "time": _time(log),
        "no_kl": not series(log, "kl")[0],
        "glossary": [(measure_title(name), line) for name, line in GLOSSARY.items()],
        "run": _run(facts, recipe),
        "settings": _settings(recipe),
    }  # fmt: skip


def measures(facts: Mapping[str, Any], log: Log) -> list[str]:
    """Return the measures that there are, of held-out cells or of training answers, in the order of the page."""
    known = set(facts["after"]) | {
        name.removeprefix("watch/")
        for record in log
        for name in record
        if name.startswith("watch/")
    }
    own = [name for name in _MEASURES if name in known]
    return own + sorted(known - set(own))


def _lead(facts: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    policy, settings = recipe["policy"], recipe["optimisation"]
    paid = [str(n).replace("_", " ") for n, weight in facts["rewards"].items() if weight]
    return (
        f"{run_name(facts['base'])} was trained for {count(facts['steps'])} steps of {count(settings['batch_size'])} "
        f"prompts with {count(policy['group'])} answers each, in {duration(facts['seconds'])}. "
        f"Rewarded: {names(paid) if paid else 'nothing'}. "
        "A reward is not what is wanted, only what can be computed: what was not rewarded stands beside it."
    )


def _rewards(recipe: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row for each reward: its name, weight and fields."""
    rows = []
    for reward in recipe["rewards"]:
        fields = {
            k: v
            for k, v in reward.items()
            if k not in ("name", "weight") and v not in (None, [], "")
        }
        shown = "; ".join(f"{name}: {_plain(value)}" for name, value in fields.items())
        rows.append({
            "name": str(reward["name"]).replace("_", " "),
            "weight": number(reward["weight"]) if reward["weight"] else "0, measured only",
            "fields": shown or DASH,
        })  # fmt: skip
    return rows


def _only_rewarded(facts: Mapping[str, Any], log: Log) -> str:
    """Say which rewards nothing was measured of on held-out cells."""
    alone = [
        n.replace("_", " ")
        for n in facts["rewards"]
        if not measures_of({n: 1.0}) & set(facts["after"])
    ]
    if not alone or not series(log, "reward")[0]:
        return ""
    verb = "is" if len(alone) == 1 else "are"
    return f"{names(alone).capitalize()} {verb} known of training answers only."


def _row(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any], paid: bool
) -> dict[str, str]:
    """Return a line of the table of measures."""
    share = name in _SHARES or name.startswith("accuracy_")
    was, now = before.get(name), after.get(name)
    shown = [percent(was), percent(now)] if share else told_apart((was, now))
    if was is None or now is None or was == now:
        standing = "same" if was is not None and now is not None else ""
    elif name in _LOWER or name in _HIGHER or name.startswith("accuracy_"):
        standing = "better" if (now < was) == (name in _LOWER) else "worse"
    else:
        standing = ""
    return {
        "title": measure_title(name),
        "before": shown[0],
        "after": shown[1],
        "standing": standing,
        "rewarded": "rewarded" if paid else "",
    }


def _time(log: Log) -> str:
    """Say what rewards took."""
    shares = shares_of_time(log)
    if not shares:
        return ""
    within = "within" if shares["rewards"] <= _REWARD_TIME else "above"
    return (
        f"Rewards took {percent(shares['rewards'])} of a step, {within} the {percent(_REWARD_TIME, 0)} that they "
        "should take at most."
    )


def _run(facts: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = recipe["data"]
    named = [v for v in (data["corpus"], data["recipe"]) if isinstance(v, str)]
    return [
        ("Model before", run_name(facts["base"])),
        ("Weights", f"{count(facts['parameters'])}, {count(facts['trained_parameters'])} trained"),
        ("Corpus", ", ".join([*map(run_name, named), str(facts["corpus"])[:12]])),
        ("Device", f"{facts['device']}, {facts['processes']} process{'es' if facts['processes'] > 1 else ''}"),
        ("Time", f"{duration(facts['seconds'])}, {count(facts['tokens_per_second'])} tokens a second"),
        ("Seed", text(facts["seed"])),
        ("Versions", ", ".join(f"{k} {v}" for k, v in facts["versions"].items())),
    ]  # fmt: skip


def _settings(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the fields of the policy and of optimisation, and of the adapter, as the recipe has them."""
    return [
        (f"{section}.{name}", _plain(value))
        for section in ("policy", "optimisation", "lora", "evaluation")
        for name, value in (recipe.get(section) or {}).items()
        if value is not None
    ]


def _plain(value: Any) -> str:
    """Return a field of a recipe as text, without where its files lie, which is nobody's business."""
    if isinstance(value, str):
        kind, colon, path = value.partition(":")
        return f"{kind}:{run_name(path)}" if colon and path else run_name(value)
    if isinstance(value, Sequence):
        return ", ".join(_plain(item) for item in value)
    return text(value)
