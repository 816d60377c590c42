"""Options that verbs share: the same one means the same on every verb.

--calib, --calib-split, --calib-limit and --feeds say what thresholds come from; --data, --split and --limit on what a model is
scored; --out, --force and --json where answers go. Choices are read from the registries; none of them loads torch, ONNX
Runtime or TVM, so that help and shell completion stay quick.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from edgeemo.console import BUILD, progress_bar
from edgeemo.quantize import DEFAULT_RECIPE
from edgeemo.quantize.thresholds import THRESHOLDS
from edgeemo.targets.board import target_aliases, target_names, target_recipe

if TYPE_CHECKING:
    from edgeemo.data.clips import Clip
    from edgeemo.quantize.calibration.runner import Calibration
    from edgeemo.quantize.calibration.sources import Source
    from edgeemo.quantize.plan import Plan
    from edgeemo.quantize.recipe import Recipe

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FILE = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
HOST, BOARD = BUILD / "emotion-host.edgeemo", BUILD / "emotion-aarch64-neon.edgeemo"
SPEECH = "EDGEEMO_SPEECH"  # the environment's name of the folder of labelled clips


class RecipeName(click.ParamType):
    """A recipe's name or a TOML file: completion offers both."""

    name = "recipe"

    def shell_complete(self, context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgeemo.quantize.recipe import recipe_names

        names = [CompletionItem(n) for n in recipe_names() if n.startswith(incomplete)]
        return [*names, CompletionItem(incomplete, type="file")]


def options_of(options: Sequence[Decorator]) -> Decorator:
    """All of ``options`` on a command, in their order in its help."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def gathered(kind: type, name: str, options: Sequence[Decorator]) -> Decorator:
    """``options`` on a command, which gets them as one ``kind`` (a dataclass with a field for each), its keyword ``name``."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def gather(*args: Any, **given: Any) -> Any:
            values = {f.name: given.pop(f.name) for f in fields(kind)}
            return command(*args, **{name: kind(**values)}, **given)

        return options_of(options)(gather)

    return add


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")(command)


def output_options(default: str) -> Decorator:
    """--out, --force and --json of a verb that makes a file."""
    return options_of(
        [
            click.option("--out", type=FILE, default=None, help=f"Output file [default: {default}]."),
            click.option("--force", is_flag=True, help="Write over existing files."),
            json_option,
        ]
    )


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--out, --force and --json of a verb that reports figures."""
    options: list[Decorator] = [
        click.option("--out", type=FILE, default=None, help="Write the JSON document to this file as well."),
        click.option("--force", is_flag=True, help="Write over existing files."),
        json_option,
    ]
    return options_of(options)(command)


class TargetChoice(click.Choice):
    """Targets and the boards' names; a board's name becomes its target's. ``several``: a list of them, by commas, each once."""

    def __init__(self, several: bool = False) -> None:
        super().__init__([*target_names(), *target_aliases()])
        self.several = several

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not self.several:
            name: str = super().convert(value, param, ctx)
            return target_aliases().get(name, name)
        if isinstance(value, list):
            return value
        return list(dict.fromkeys(TargetChoice().convert(name, param, ctx) for name in str(value).split(",")))


def target_option(what: str) -> Decorator:
    return click.option("--target", type=TargetChoice(), default="aarch64-neon", help=f"{what} (`edgeemo targets`).")


def data_options(
    default: Path | None = Path("speech"),
    limit: int | None = None,
    folder: str = f"Folder with manifest.csv; the variable {SPEECH} may name it, too.",
    split: str = "Only this split of the manifest [default: all clips].",
    several: bool = False,
) -> Decorator:
    """--data, --split and --limit: clips that a model is scored on. ``several``: --data may be given more than once."""
    variable = SPEECH if default is not None else None
    first: Any = (default,) if several and default is not None else default
    folder += " Several count together." if several else ""
    return options_of(
        [
            click.option("--data", type=FOLDER, envvar=variable, default=first, multiple=several, help=folder),
            click.option("--split", metavar="NAME", default=None, help=split),
            click.option("--limit", type=click.IntRange(1), default=limit,
                         help="So many of them, evenly spread" + ("." if limit else " [default: all].")),
        ]
    )  # fmt: skip


a72cost_option = click.option("--a72cost", type=FOLDER, default=None, help="Folder of the a72cost tool: models the board's core.")


def artifact_options(floating: Path | None, board_float: Path | None) -> Decorator:
    """Which artifacts to measure: streaming ones or others; of the float ones, what is taken where nothing is given."""
    return options_of(
        [
            click.option("--int8", type=FILE, default=HOST, help="INT8 artifact for this machine."),
            click.option("--float", "floating", type=FILE, default=floating, help="Float artifact to compare with."),
            click.option("--board", type=FILE, default=BOARD, help="INT8 artifact to model."),
            click.option("--board-float", type=FILE, default=board_float, help="Float artifact to model."),
        ]
    )


@dataclass(frozen=True)
class CalibrationOptions:
    """The values of ``calibration_options``."""

    recipe: str | None
    threshold: str | None
    calib: Path
    calib_split: str | None
    calib_limit: int | None
    feeds: Path | None
    jobs: int
    cluster: str | None

    def chosen_recipe(self, target: str) -> Recipe:
        """The named one, else that which suits ``target``, with the threshold method of ``--threshold`` where that is given."""
        from edgeemo.quantize.recipe import load_recipe

        recipe = load_recipe(self.recipe or target_recipe(target) or DEFAULT_RECIPE)
        return replace(recipe, threshold=self.threshold or recipe.threshold)

    def source(self, planned: Plan) -> tuple[Source, list[Clip], list[str]]:
        """The source to calibrate on, its clips (none of feeds), and warnings. Raises EdgeEmoError where nothing fits the
        model."""
        from edgeemo.quantize.calibration.checks import warnings
        from edgeemo.quantize.calibration.sources import ClipSource, FeedSource
        from edgeemo.quantize.plan import stream_contract

        if self.feeds is not None:
            from edgeemo.quantize.findings import feed_warnings

            feeds = FeedSource.of(self.feeds, self.calib_limit)
            return feeds, [], feed_warnings(feeds, planned.model)
        contract = stream_contract(planned)
        clips = self._clips()
        return ClipSource.of(contract, clips), clips, warnings(clips, contract.sample_rate)

    def _clips(self) -> list[Clip]:
        """Raises EdgeEmoError where the folder or split has no clips, or they are of the manifest's test speakers."""
        from edgeemo.data.clips import MANIFEST, evenly, find_clips, read_manifest
        from edgeemo.quantize.calibration.checks import refuse_test_speakers

        clips = find_clips(self.calib) if self.calib_split is None else read_manifest(self.calib, self.calib_split)
        if (self.calib / MANIFEST).is_file():
            refuse_test_speakers(clips, clips if self.calib_split is None else read_manifest(self.calib))
        return evenly(clips, self.calib_limit)

    def observe(self, planned: Plan, source: Source, **options: int) -> Calibration:
        """Ranges of all that the plan quantizes, under a progress bar; ``options``: more for plan.observe."""
        from edgeemo.quantize.calibration.sources import files_of
        from edgeemo.quantize.plan import observe

        files = files_of(source)
        with progress_bar(f"calibrating on {len(files)} files, three passes", 3 * len(files)) as advance:
            return observe(planned, source, advance, self.jobs, self.cluster, **options)


# Which recipe, which clips, and what does the work: of every verb that calibrates, given to it as ``calibrating``.
calibration_options = gathered(
    CalibrationOptions,
    "calibrating",
    [
        click.option("--recipe", type=RecipeName(), default=None,
                     help="A name of `edgeemo recipes`, or a TOML file [default: the target's]."),
        click.option("--threshold", type=click.Choice(list(THRESHOLDS)), default=None,
                     help="How activations are clipped [default: the recipe's]."),
        click.option("--calib", type=FOLDER, default=Path("calibration"),
                     help="Folder of clips (WAV, FLAC, OGG) to calibrate on."),
        click.option("--calib-split", metavar="NAME", default=None,
                     help="Only this split of --calib's manifest [default: all clips]."),
        click.option("--calib-limit", type=click.IntRange(1), default=None,
                     help="So many of its clips, or feeds, evenly spread [default: all]."),
        click.option("--feeds", type=FOLDER, default=None, metavar="DIR",
                     help="Calibrate on .npz files of inputs instead of clips: for a model that hears no audio."),
        click.option("--jobs", type=click.IntRange(0), default=1, help="Processes, 0 for one per core; results are the same."),
        click.option("--cluster", default=None, metavar="dask://HOST:PORT", help="Send work to this Dask cluster."),
    ],
)  # fmt: skip
