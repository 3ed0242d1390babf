"""A matplotlib figure as SVG that belongs to the page it stands in.

Text stays text, in the font and colour of the page, so that a figure follows light and dark.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from c2s.plots.style import INK, MUTED, PAPER

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

#: Colours of `c2s.plots.style` that have another value on a dark page.
_PAGE_COLOURS = {INK: "currentColor", MUTED: "var(--muted)", PAPER: "var(--paper)"}
_FONT_FAMILY = re.compile(r"\s*font-family:[^;]*;?")
_LOCAL = re.compile(r"url\(#([^)]*)\)")


def to_svg(figure: Figure, name: str, title: str) -> Markup:
    """Return `figure` as an inline SVG element.

    Parameters
    ----------
    figure : matplotlib Figure
    name : str
        Prefix for its ids, different for every figure of the page.
    title : str
        What it shows, for people who cannot see it.

    Returns
    -------
    markupsafe.Markup
        The element, without references to anything outside it.
    """
    import matplotlib
    from markupsafe import Markup

    buffer = io.BytesIO()
    # A fixed salt and no date: the same figure gives the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            dpi=200,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        _localise(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    # Not larger than text of the page's size; on a narrow screen it shrinks.
    width = float(root.attrib["viewBox"].split()[2])
    root.set("style", f"max-width: {1.5 * width:.0f}px")
    root.set("role", "img")
    root.set("aria-label", title)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _localise(element: ElementTree.Element, name: str) -> None:
    """Drop namespaces, prefix ids and references to them, and take the page's font and colours."""
    element.tag = element.tag.rpartition("}")[2]
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        short = key.rpartition("}")[2]
        if short == "id":
            value = f"{name}-{value}"
        elif short == "href" and value.startswith("#"):
            value = f"#{name}-{value[1:]}"
        elif short == "style":
            value = _FONT_FAMILY.sub("", value)
        value = _LOCAL.sub(rf"url(#{name}-\1)", value)
        for colour, on_page in _PAGE_COLOURS.items():
            value = value.replace(colour, on_page)
        element.set(short, value)
