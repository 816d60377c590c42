"""Cost per stream against batch size, as PNG."""

from __future__ import annotations

from pathlib import Path

from edgeemo_runtime.errors import EdgeEmoError


def plot_cost(curves: dict[str, dict[int, float]], unit: str, limit: float | None, title: str, path: Path) -> None:
    """``curves``: name to cost per stream by number of streams. Raises EdgeEmoError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise EdgeEmoError("plots need matplotlib: pip install 'edgeemo[dev]', or leave --plot out") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, label=name)
    if limit is not None:
        axes.axhline(limit, color="grey", linestyle="--", linewidth=1, label="limit: 8 INT8 MAC per cycle")
    axes.set(xlabel="streams in the batch", ylabel=unit, title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
