"""The plots of an analysis, each an <svg> element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeemo.analyze.local import Local
from edgeemo.analyze.search import Found, Sensitivity
from edgeemo.plotting import figure_svg, pyplot

BARS, CHANNELS = 128, 256  # as many points as a small plot can show


def along_network(found: Sequence[Sensitivity], local: dict[str, Local], measure: str) -> str:
    """Local SQNR and end-to-end error of every part, in the graph's order."""
    names = [s.part.name for s in found]
    at = np.arange(len(names))
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(11, 6))
    above.bar(at, [min(local[n].sqnr_db, 80) for n in names], color="#4878a8")
    above.set(ylabel="local SQNR, dB", title="error along the network, input to output")
    below.plot(
        at, [max(s.alone.error, 1e-9) for s in found], marker="o", markersize=4, color="#b04040", label="this part alone in INT8"
    )
    below.set(ylabel=f"answers: {measure}", yscale="log")
    below.set_xticks(at, names, rotation=90, fontsize=7)
    for label in below.get_xticklabels():
        label.set_parse_math(False)  # a node's name is no formula
    for axes in (above, below):
        axes.grid(alpha=0.3)
    below.legend(fontsize=8)
    return figure_svg(figure)


def histogram(local: Local) -> str:
    """Absolute input values with the recipe's threshold; counts on a logarithmic scale."""
    counts = local.histogram.reshape(BARS, -1).sum(axis=1)
    figure, axes = pyplot.subplots(figsize=(4.6, 2.6))
    axes.stairs(np.maximum(counts, 0.5), np.linspace(0, local.max_input or 1.0, BARS + 1), fill=True, color="#9ab4cc")
    axes.axvline(local.threshold, color="#b04040", linewidth=1.2, label=f"threshold {local.threshold:.3g}")
    axes.set(yscale="log", xlabel="absolute input value", ylabel="count")
    axes.legend(fontsize=7)
    return figure_svg(figure)


def channels(local: Local) -> str:
    """Largest magnitude per channel, sorted: of the input, and of the weights (their scales are 1 / 127 of it)."""
    figure, axes = pyplot.subplots(figsize=(4.6, 2.6))
    for values, label, colour in ((local.input_channels, "input", "#4878a8"), (local.weight_channels, "weights", "#c08030")):
        if values.size:
            ordered = np.sort(values)[::-1]
            shown = np.unique(np.linspace(0, len(ordered) - 1, CHANNELS).astype(int))
            axes.plot(shown, np.maximum(ordered[shown], 1e-9), label=label, color=colour)
    axes.set(yscale="log", xlabel="channel, sorted", ylabel="largest magnitude")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    return figure_svg(figure)


def pareto(found: Found, measure: str) -> str:
    """Cost of every recipe the search scored, and how far it is from float; the proposal is marked."""
    modelled = all(p.more_cycles is not None for p in found.points)
    costs = [(p.more_cycles or 0.0) / 1e3 if modelled else p.more_bytes / 1e3 for p in found.points]
    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    axes.plot(costs, [max(p.score.error, 1e-9) for p in found.points], "o", color="#4878a8", label="recipes tried")
    if found.best is not None:
        at = found.points.index(found.best)
        axes.plot(
            costs[at], max(found.best.score.error, 1e-9), "o", markersize=11, fillstyle="none", color="#b04040", label="proposed"
        )
    what = "thousand cycles more per stream and step (estimated from modelled rates)" if modelled else "kB more"
    axes.set(yscale="log", xlabel=what, ylabel=f"answers: {measure}")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure_svg(figure)
