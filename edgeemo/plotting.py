"""matplotlib without a display, as PNG files or as SVG to put into a page."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

__all__ = ["figure_svg", "pyplot"]


def figure_svg(figure: Any) -> str:
    """The figure as an <svg> element, text as text, the same for the same figure; closes it."""
    for axes in figure.axes:
        axes.minorticks_off()  # two thirds of a small plot's size
    figure.tight_layout()
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgeemo"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    _, start, rest = text.getvalue().partition("<svg")
    return start + re.sub(r"(\.\d\d)\d+", r"\1", rest)  # a hundredth of a point is enough, and half the bytes
