"""What all figures share: colours that everyone can tell apart, and quiet axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from c2s.common.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.text import Text
    from numpy.typing import NDArray

#: Text and the marks that a reader must not miss.
INK = "#1f2328"
#: Axis lines, reference lines and secondary text.
MUTED = "#77818c"
#: What a halo around text is filled with: the colour of the page.
PAPER = "#ffffff"
#: Cells with no part in what a panel shows.
BACKGROUND = "#9aa4ae"
#: Real cells and generated cells, in every figure that sets one against the other.
REAL = "#0072b2"
GENERATED = "#d55e00"

#: Six Okabe–Ito colours, then each time the colour of the RGB cube furthest from all before it:
#: in OKLab, for normal sight and for protanopia, deuteranopia and tritanopia (Machado et al. 2009),
#: of a middle lightness that shows on a white page and on a dark one. Any leading part serves.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#a52d0f",
    "#b4c3a5", "#5a00f0", "#a569ff", "#784b69", "#d200b4", "#4bd2e1", "#78b478",
    "#5a785a", "#00a5c3", "#c33c2d", "#87d269", "#785ae1", "#786987",
)  # fmt: skip


def label_colours(labels: Iterable[str]) -> dict[str, str]:
    """Return one colour per distinct label, the same whatever the order or number of repeats.

    Labels take colours in alphabetical order, so two figures agree when they are given the same set
    of labels; pass the result on as `colours=` where a figure shows only some of them. From the
    21st label on, colours repeat.

    Examples
    --------
    >>> label_colours(["beta", "alpha", "beta"])
    {'alpha': '#0072b2', 'beta': '#d55e00'}
    """
    distinct = sorted({str(label) for label in labels})
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(distinct)}


def colour_of(label: str, colours: Mapping[str, str]) -> str:
    """Return the colour of `label`.

    Raises
    ------
    InputError
        `colours` was given by the caller and lacks the label.
    """
    try:
        return colours[label]
    except KeyError:
        raise InputError(
            f"colours: no colour for the label {label!r}; pass label_colours(...) of all labels"
        ) from None


def axes_or_new(ax: Axes | None, width: float = 4.2, height: float = 4.0) -> Axes:
    """Return `ax`, or the only Axes of a new figure of `width` × `height` inches."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def quiet(ax: Axes, *, frame: bool = True) -> None:
    """Drop the upper and right axis lines (all four without `frame`) and mute the rest."""
    for side, spine in ax.spines.items():
        spine.set_visible(frame and side in ("left", "bottom"))
        spine.set_color(MUTED)
        spine.set_linewidth(0.8)
    ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5, width=0.8)
    for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
        text.set_color(INK)
        text.set_fontsize(9.5)


def verbatim(texts: Iterable[Text]) -> None:
    """Show labels as they are: a `$` in a cell type is no formula."""
    for text in texts:
        text.set_parse_math(False)


def legend(
    ax: Axes,
    location: Literal["best", "upper left", "upper right"] = "best",
    *,
    marker_scale: float = 1.0,
) -> None:
    """Draw the legend of `ax` without a box, if anything has a label.

    Marks in it are `marker_scale` times as wide as in the plot.
    """
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        box = ax.legend(
            handles,
            labels,
            loc=location,
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            markerscale=marker_scale,
        )
        verbatim(box.get_texts())


def see_through(colour: str, strongest: float) -> Colormap:
    """Return a colour map of one hue from transparent to `strongest` opacity.

    It is right on a white page and on a dark one, where a map that ends in white would not be.
    """
    from matplotlib.colors import ListedColormap, to_rgba

    shades = np.tile(to_rgba(colour), (256, 1))
    shades[:, 3] = np.linspace(0.0, strongest, 256)
    return ListedColormap(shades)


def vector(values: Sequence[float] | NDArray[np.floating], name: str) -> NDArray[np.float64]:
    """Return `values` as float64, shape (n,).

    Raises
    ------
    InputError
        They have another shape.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{name}: shape {array.shape}; expected one value per item, shape (n,)")
    return array


def same_length(**arrays: Sequence[object] | NDArray) -> None:
    """Check that arrays that describe the same items have as many of them.

    Raises
    ------
    InputError
        Their lengths differ; the line names each.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {n:,}" for name, n in lengths.items())
        raise InputError(f"{found}; expected the same number in each")
