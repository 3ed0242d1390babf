"""Which genes carried a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import InputError
from c2s.plots.style import INK, MUTED, REAL, axes_or_new, quiet, same_length, vector, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def explanation(
    genes: Sequence[str],
    values: Sequence[float] | NDArray[np.floating],
    errors: Sequence[float] | NDArray[np.floating] | None = None,
    *,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how much each gene carried a label, the first gene at the top.

    Parameters
    ----------
    genes : sequence of str
        Columns of one label of `c2s.tl.top_genes`, or of one cell of `c2s.tl.explain`.
    values : array, shape (n_genes,)
        What each adds to log p of the label, in nats; below 0 it speaks against the label.
    errors : array, shape (n_genes,), optional
        Standard errors, drawn as lines of that length to either side; NaN draws none.
    label
        What is explained, for the axis.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InputError
        There are no genes, or not as many values or errors as genes.

    Examples
    --------
    >>> ax = explanation(["INS", "IAPP"], [2.1, 0.4], label="beta")
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['INS', 'IAPP']
    """
    names = [str(gene) for gene in genes]
    widths = vector(values, "values")
    same_length(genes=names, values=widths)
    if not names:
        raise InputError("explanation: no genes; expected at least one")
    ax = axes_or_new(ax, 4.2, 1.0 + 0.2 * len(names))
    at = np.arange(len(names))
    ax.barh(at, widths, height=0.72, color=REAL, linewidth=0)
    if errors is not None:
        spread = vector(errors, "errors")
        same_length(genes=names, errors=spread)
        known = np.isfinite(spread)
        ax.errorbar(
            widths[known], at[known], xerr=spread[known], fmt="none", ecolor=INK, elinewidth=1
        )
    ax.axvline(0, color=MUTED, linewidth=0.8)
    ax.set_yticks(at, names)
    ax.set_ylim(len(names) - 0.4, -0.6)  # the first at the top
    of = "" if label is None else f" of {label}"
    ax.set_xlabel(f"Added to log p{of} (nats)")
    quiet(ax)
    verbatim([*ax.get_yticklabels(), ax.xaxis.label])
    ax.tick_params(axis="y", length=0)
    return ax
