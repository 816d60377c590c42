"""Plots as PNG: cost per stream against batch size; which classes a model mistakes for which, and how sure it is of them; which
models nothing else beats in both F1 and calls."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeemo.evaluate.metrics import calibration_error, confidence_tenths, confusion_matrix
from edgeemo.plotting import pyplot

FEWEST = 5  # answers that make a point of a reliability curve


class Curve(NamedTuple):
    """Answers (n, labels) and what was true (n,), under a name."""

    name: str
    probabilities: np.ndarray
    truth: np.ndarray


def plot_cost(curves: dict[str, dict[int, float]], unit: str, limit: float | None, title: str) -> bytes:
    """A PNG's bytes. ``curves``: name to cost per stream by number of streams."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, label=name)
    if limit is not None:
        axes.axhline(limit, color="grey", linestyle="--", linewidth=1, label="limit: 8 INT8 MAC per cycle")
    axes.set(xlabel="streams in the batch", ylabel=unit, title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    png = io.BytesIO()
    figure.savefig(png, dpi=120)
    pyplot.close(figure)
    return png.getvalue()


def plot_answers(probabilities: np.ndarray, truth: np.ndarray, labels: tuple[str, ...], title: str, path: Path) -> None:
    """Confusion matrix (shares of the true label) and reliability: how often answers of a confidence are right, as PNG."""
    answer, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    counts = confusion_matrix(truth, answer, len(labels))
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6))
    left.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(share.shape):
        ink = "white" if share[i, j] > 0.6 else "black"
        left.text(j, i, f"{share[i, j]:.2f}", ha="center", va="center", fontsize=8, color=ink)
    left.set_xticks(range(len(labels)), labels, rotation=40)
    left.set_yticks(range(len(labels)), labels)
    left.set(xlabel="answer", ylabel="label", title=title)
    right.plot([0, 1], [0, 1], color="grey", linewidth=1)
    right.plot(*_reliability(sure, answer == truth), marker="o")
    right.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1), title="reliability")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _reliability(sure: np.ndarray, right: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean confidence, and how many are right, in each tenth of confidence that has answers enough."""
    bins = confidence_tenths(sure)
    used = [b for b in np.unique(bins) if (bins == b).sum() >= FEWEST]
    return [float(sure[bins == b].mean()) for b in used], [float(right[bins == b].mean()) for b in used]


def plot_reliability(panels: dict[str, Sequence[Curve]], path: Path) -> None:
    """Reliability curves side by side, a panel for each of what was answered, with their expected calibration errors."""
    figure, all_axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), sharey=True, squeeze=False)
    for axes, (title, curves) in zip(all_axes[0], panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
        for curve in curves:
            p = curve.probabilities
            said = f"{curve.name}: {calibration_error(p, curve.truth):.3f}"
            axes.plot(*_reliability(p.max(axis=1), p.argmax(axis=1) == curve.truth), marker="o", markersize=4, label=said)
        axes.legend(title="expected calibration error", fontsize=7, title_fontsize=7)
        axes.set(xlabel="confidence", title=title, xlim=(0, 1), ylim=(0, 1))
    all_axes[0][0].set_ylabel("share that is right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of those points (both coordinates: more is better) that no other has at least as much of both as, by the first."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1]))
    front, best = list[int](), float("-inf")
    for i in order:
        if points[i][1] > best:
            best = points[i][1]
            front.append(i)
    return front[::-1]


def plot_front(names: Sequence[str], calls: Sequence[float], f1: Sequence[float], title: str, path: Path) -> None:
    """macro-F1 against calls that one core takes, logarithmic; a line through the models that no other beats in both."""
    points = list(zip(calls, f1, strict=True))
    front = pareto_front(points)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.step([points[i][0] for i in front], [points[i][1] for i in front], where="pre", color="tab:blue", linewidth=1)
    for i, (name, (count, score)) in enumerate(zip(names, points, strict=True)):
        axes.plot([count], [score], marker="o", color="tab:blue" if i in front else "grey")
        axes.annotate(name, (count, score), textcoords="offset points", xytext=(6, 6), fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(min(calls) / 2, max(calls) * 4)
    axes.margins(y=0.15)
    ticks = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if min(calls) / 2 <= n <= max(calls) * 4]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set(xlabel="calls on one core", ylabel="macro-F1, INT8", title=title)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
