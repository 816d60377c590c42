"""An analysis as one document: what --json prints, and a page that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from edgeemo.analyze import plots
from edgeemo.analyze.local import Local
from edgeemo.analyze.parts import Part
from edgeemo.analyze.search import Found, Point, Sensitivity, precision_to_keep
from edgeemo.quantize.recipe import Recipe

# Key in a part's row, heading, and how its figure is written.
COLUMNS = (
    ("name", "part", ""),
    ("op", "op", ""),
    ("precision", "precision", ""),
    ("macs", "MAC / step", ",d"),
    ("sqnr_db", "SQNR dB", ".1f"),
    ("cosine", "cosine", ".5f"),
    ("max_error", "max error", ".3g"),
    ("saturation", "beyond", ".3%"),
    ("outlier_channels", "outliers", "d"),
    ("zero_range_inputs", "zero", "d"),
    ("dead_channels", "dead", "d"),
    ("alone_error", "{measure} alone", ".2e"),
    ("without_error", "{measure} without", ".2e"),
    ("alone_drop", "F1 drop alone", "+.4f"),
    ("without_drop", "F1 drop without", "+.4f"),
)


def part_rows(found: Sequence[Sensitivity], local: dict[str, Local], recipe: Recipe) -> list[dict[str, Any]]:
    """One row per part, the one that does most harm alone first."""
    rows = []
    for s in sorted(found, key=lambda s: s.alone.error, reverse=True):
        mine = local[s.part.name]
        ranges = {k: getattr(mine, k) for k in ("outlier_channels", "zero_range_inputs", "dead_channels")}
        plain = ("sqnr_db", "cosine", "max_error", "max_output", "threshold", "max_input", "saturation")
        rows.append(
            {
                "name": s.part.name, "op": s.part.op, "members": list(s.part.members), "macs": s.part.macs,
                "precision": recipe.precision(s.part.members[0]), "bytes_int8": s.part.bytes("int8"),
                **{k: getattr(mine, k) for k in plain}, **ranges,
                "alone_error": s.alone.error, "alone_drop": s.alone.drop,
                "without_error": s.without.error, "without_drop": s.without.drop,
                "input_channels": [float(f"{v:.4g}") for v in mine.input_channels],
                "weight_channels": [float(f"{v:.4g}") for v in mine.weight_channels],
            }
        )  # fmt: skip
    return rows


def point_rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """In words next to the point before: what is kept in float besides."""
    rows = [_point_row(p, points[0].recipe) for p in points]
    for row, point, before in zip(rows[1:], points[1:], points, strict=False):
        # Of the same base: the search goes on from the nearer of the recipe and the one with better thresholds.
        further = point.recipe.rules[: len(before.recipe.rules)] == before.recipe.rules
        if point.kept and point.kept[:-1] == before.kept and further:
            row["does"] = f"+ {_kept(point.kept[-1])}"
    return rows


def _point_row(point: Point, first: Recipe) -> dict[str, Any]:
    tuned = sum(r.threshold is not None for r in point.recipe.rules) - sum(r.threshold is not None for r in first.rules)
    does = [f"{tuned} parts with a better threshold"] if tuned else []
    does += [", ".join(_kept(p) for p in point.kept)] if point.kept else []
    row = {"does": "; ".join(does) or "nothing: the recipe as it is", "kept": [p.name for p in point.kept]}
    return {**row, **asdict(point.score), "more_bytes": point.more_bytes, "more_cycles": point.more_cycles}


def _kept(part: Part) -> str:
    return f"{part.name} in {precision_to_keep(part).upper()}"


def proposal_toml(found: Found, asked: str, about: str, measure: str) -> str | None:
    """The proposed recipe as a file; None where nothing was good enough."""
    return None if found.best is None else found.best.recipe.to_toml(proposal_toml_comment(found, asked, about, measure))


def proposal_toml_comment(found: Found, asked: str, about: str, measure: str) -> str:
    """The comment above the recipe in its file: where it is from, what it brings, what it costs."""
    assert found.best is not None
    best, was, now = found.best, found.points[0].score, found.best.score
    drops = "" if was.drop is None or now.drop is None else f", drop of macro-F1 {was.drop:+.4f} -> {now.drop:+.4f}"
    cycles = (
        "" if best.more_cycles is None else f" and {best.more_cycles / 1e3:.1f} thousand cycles (estimated from modelled rates)"
    )
    return (
        f"{about}\nasked for: {asked}\n"
        f"{measure}: {was.error:.3g} -> {now.error:.3g}; SQNR {was.sqnr_db:.1f} -> {now.sqnr_db:.1f} dB{drops}\n"
        f"costs {best.more_bytes / 1e3:.0f} kB{cycles} per stream and step more"
    )


def render(document: dict[str, Any], found: Sequence[Sensitivity], local: dict[str, Local], proposal: Found) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    specs = {key: spec for key, _, spec in COLUMNS}
    environment.filters["figure"] = lambda value, key: "" if value is None else format(value, specs[key])
    drawn = {n: {"histogram": Markup(plots.histogram(x)), "channels": Markup(plots.channels(x))} for n, x in local.items()}
    measure = document["evaluation"]["measure"]
    network, pareto = Markup(plots.along_network(found, local, measure)), Markup(plots.pareto(proposal, measure))
    shown = {"network": network, "pareto": pareto, "parts": drawn}
    labelled = document["base"]["drop"] is not None
    columns = [(key, head.format(measure=measure)) for key, head, _ in COLUMNS if labelled or not key.endswith("_drop")]
    return environment.get_template("report.html.j2").render(d=document, plots=shown, columns=columns)
