"""How the training and the validation loss fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.plots.style import PALETTE, axes_or_new, legend, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_SPLITS = ("train", "val")


def loss_curves(
    losses: Sequence[Mapping[str, Any]], *, window: int = 1, ax: Axes | None = None
) -> Axes:
    """Draw the loss at each step, one line per task and split.

    Parameters
    ----------
    losses : sequence of mappings
        Each with `step` (int), `loss` (float, nats per token), `split` ("train" or "val") and
        optionally `task` (str).
    window : int
        Training losses are shown as the running mean of this many records (the last `window` at
        each step, fewer at the start); 1 shows them as they are. A longer window is smoother and
        later to show a change. Validation losses are never smoothed.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InputError
        A record lacks a field or has another split.
    UsageError
        `window` is below 1.
    """
    if window < 1:
        raise UsageError(f"window={window}; expected at least 1 record")
    ax = axes_or_new(ax, 5.6, 3.8)
    curves = _curves(losses)
    colours = {task: PALETTE[i % len(PALETTE)] for i, task in enumerate(_tasks(curves))}
    for (task, split), (steps, values) in curves.items():
        label = "validation" if split == "val" else "training"
        label = f"{task.replace('_', ' ')}, {label}" if task else label
        if split == "train":
            ax.plot(
                steps, running_mean(values, window),
                color=colours[task], linewidth=1.2, alpha=0.7, label=label,
            )  # fmt: skip
        else:
            ax.plot(
                steps, values,
                color=colours[task], linewidth=1.6, linestyle="--", marker="o", markersize=3.5,
                label=label,
            )  # fmt: skip
    ax.set_xlabel("Training step")
    ax.set_ylabel("Loss (nats per token)")
    quiet(ax)
    legend(ax, "upper right")
    return ax


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the mean of the last `window` values at each place, of fewer at the start.

    Examples
    --------
    >>> running_mean(np.array([4.0, 2.0, 0.0]), 2)
    array([4., 3., 1.])
    """
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[ends] - sums[starts]) / (ends - starts)


def _tasks(curves: Mapping[tuple[str, str], object]) -> list[str]:
    return sorted({task for task, _ in curves})


def _curves(
    losses: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return steps and losses by (task, split), each in the order of the steps."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for number, record in enumerate(losses):
        absent = {"step", "loss", "split"} - set(record)
        if absent:
            raise InputError(f"losses, record {number}: no field {', '.join(sorted(absent))}")
        if record["split"] not in _SPLITS:
            raise InputError(
                f"losses, record {number}: split {record['split']!r}; expected 'train' or 'val'"
            )
        if record["loss"] is None or not np.isfinite(record["loss"]):
            continue  # a gap in the log is a gap in the line
        key = (str(record.get("task") or ""), str(record["split"]))
        points.setdefault(key, []).append((int(record["step"]), float(record["loss"])))
    curves = {}
    for key in sorted(points):
        steps, values = zip(*sorted(points[key]), strict=True)
        curves[key] = (np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))
    return curves
