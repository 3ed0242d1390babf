"""How an alignment went: rewards, the policy, what was measured beside them, and where the time went."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.common.errors import UsageError
from c2s.plots.losses import running_mean
from c2s.plots.style import GENERATED, INK, MUTED, PALETTE, REAL, axes_or_new, legend, quiet
from c2s.training.grpo.signs import Log, rewarded, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Headings of measures.
_TITLES = {
    "scfid": "scFID",
    "energy_distance": "Energy distance",
    "diversity": "Diversity (real cells: 1)",
    "unique": "Share of unique answers",
    "valid": "Share of valid cells",
    "allowed": "Allowed tokens without a constraint",
    "genes": "Genes a cell",
    "words": "Words a text",
    "nearest_overlap": "Genes shared with the nearest training cell",
    "nearest_overlap_real": "Real cells: genes shared with it",
}
#: What is drawn into the panel of another measure.
_BESIDE = {"nearest_overlap": "nearest_overlap_real"}
_POLICY = {
    "kl": "KL from the model before (nats a token)",
    "kl_allowed": "KL of what is allowed (nats a token)",
    "entropy": "Entropy of the choices (nats)",
    "completions/mean_length": "Tokens an answer",
    "frac_reward_zero_std": "Share of answers whose group has equal rewards",
}
#: Lines through training steps are means of a fortieth of them.
_SMOOTHED = 40


def measure_title(name: str) -> str:
    """Return the heading of a measure of `log.jsonl`, without "eval_" or "watch/".

    Examples
    --------
    >>> measure_title("scfid"), measure_title("accuracy_cell_type")
    ('scFID', 'Accuracy, cell type')
    """
    if name.startswith("accuracy_"):
        return f"Accuracy, {name.removeprefix('accuracy_').replace('_', ' ')}"
    return _TITLES.get(name, name.replace("_", " "))


def alignment_rewards(log: Log) -> Figure:
    """Draw the rewards of the answers of each step, and their spread within groups.

    Parameters
    ----------
    log
        Records of `log.jsonl` of a run with ``stage: grpo``.

    Returns
    -------
    matplotlib Figure
        A panel for each reward, not weighted, and one for the weighted sum where there are several. The line is a
        running mean, the faint one is of single steps, the band is the standard deviation.

    Raises
    ------
    UsageError
        Nothing was rewarded in this log.
    """
    names = rewarded(log)
    keys = [(f"rewards/{n}/mean", f"rewards/{n}/std", n.replace("_", " ")) for n in names]
    if len(names) > 1:
        keys = [("reward", "reward_std", "weighted sum"), *keys]
    figure, axes = _panels(len(keys))
    for i, (ax, (mean, spread, title)) in enumerate(zip(axes, keys, strict=True)):
        _steps(ax, log, mean, PALETTE[i % len(PALETTE)], spread)
        _finish(ax, f"Reward: {title}")
    return figure


def alignment_policy(log: Log) -> Figure:
    """Draw what the policy itself does: KL, entropy, length of answers, and groups that nothing is learned from.

    Parameters
    ----------
    log
        Records of `log.jsonl` of a run with ``stage: grpo``.

    Returns
    -------
    matplotlib Figure
        A panel for each; without KL where a run had no reference (β = 0).

    Raises
    ------
    UsageError
        There are no steps in this log.
    """
    found = [name for name in _POLICY if series(log, name)[0]]
    figure, axes = _panels(len(found))
    for ax, name in zip(axes, found, strict=True):
        _steps(ax, log, name, PALETTE[2])
        _finish(ax, _POLICY[name])
        if name != "completions/mean_length":
            ax.set_ylim(bottom=0)
    return figure


def alignment_measures(log: Log, names: Sequence[str], also: Collection[str] = ()) -> Figure:
    """Draw measures along training: of held-out conditions, and of the answers that were learned from.

    Parameters
    ----------
    log
        Records of `log.jsonl` of a run with ``stage: grpo``.
    names
        Measures, as "scfid"; each is a panel.
    also
        Those among them that were rewarded, which their headings say.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    UsageError
        None is given.
    """
    figure, axes = _panels(len(names))
    for ax, name in zip(axes, names, strict=True):
        _steps(ax, log, f"watch/{name}", MUTED, label="training answers")
        steps, values = series(log, f"eval_{name}")
        ax.plot(
            steps, values, color=GENERATED, linewidth=1.6, marker="o", markersize=3.5, label="held out"
        )  # fmt: skip
        if name in _BESIDE:
            steps, values = series(log, f"eval_{_BESIDE[name]}")
            ax.plot(steps, values, color=REAL, linewidth=1.4, linestyle="--", label="real cells")
        elif name == "diversity":
            ax.axhline(1.0, color=REAL, linewidth=1.0, linestyle=":")
        _finish(ax, measure_title(name) + (" (rewarded)" if name in also else ""))
        legend(ax)
    return figure


def alignment_times(shares: Mapping[str, float], *, ax: Axes | None = None) -> Axes:
    """Draw what the parts of a step took.

    Parameters
    ----------
    shares
        Of the time of steps, by part, as `c2s.training.grpo.signs.shares_of_time` gives them.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes
    """
    ax = axes_or_new(ax, 5.6, 0.5 + 0.34 * max(len(shares), 1))
    names = list(shares)
    ax.barh(names, [100 * shares[n] for n in names], color=REAL, height=0.62)
    for y, name in enumerate(names):
        ax.text(
            100 * shares[name] + 1, y, f"{shares[name]:.1%}", va="center", fontsize=8.5, color=INK
        )
    ax.set_xlim(0, 108)
    ax.invert_yaxis()
    ax.set_xlabel("Share of the time of a step (%)")
    quiet(ax)
    return ax


def _panels(n: int) -> tuple[Figure, Sequence[Any]]:
    """Return a figure with so many panels, and them."""
    from matplotlib.figure import Figure

    if not n:
        raise UsageError("log: there is nothing of an alignment to draw")
    columns = 2 if n in (2, 4) else min(3, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(3.5 * columns + 0.4, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    return figure, list(axes[:n])


def _steps(
    ax: Axes, log: Log, name: str, colour: str, spread: str | None = None, label: str | None = None
) -> None:
    """Draw a number of training steps: single ones, a running mean, and a band of another number around it."""
    points = [r for r in log if r.get(name) is not None]
    steps, values = series(points, name)
    if not steps:
        return
    smooth = running_mean(np.array(values), max(1, len(values) // _SMOOTHED))
    ax.plot(steps, values, color=colour, linewidth=0.6, alpha=0.4)
    ax.plot(steps, smooth, color=colour, linewidth=1.4, label=label)
    if spread is None:
        return
    # Where a step has no spread, there is no band.
    wide = dict(zip(*series(points, spread), strict=True))
    half = np.array([wide.get(step, np.nan) for step in steps])
    ax.fill_between(steps, smooth - half, smooth + half, color=colour, alpha=0.14, linewidth=0)


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=9.5, color=INK)
    ax.set_xlabel("Step")
    ax.locator_params(axis="x", integer=True)
    quiet(ax)
