"""`edgeemo train`: weights of a model, best on the dev split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from edgeemo.cli.options import FILE, FOLDER, gathered, output_options
from edgeemo.console import BUILD, print_json, user_errors
from edgeemo.files import check_output
from edgeemo.model.names import COSYVOICE_TINY, MODEL_NAMES, WHISPER_TINY_CLS


@dataclass(frozen=True)
class TrainOptions:
    """The values of the verb's options, but for where its output goes."""

    model: str
    data: tuple[Path, ...]
    epochs: int | None
    updates: int | None
    minutes: float | None
    device: str
    seed: int | None
    peak_lr: float | None
    init: Path | None
    teachers: tuple[str, ...]
    unlabelled: Path | None
    resume: bool
    intensity: bool
    threads: int

    @property
    def mixed(self) -> bool:
        """Whether the model learns from a mix of corpora, without epochs."""
        return self.model == COSYVOICE_TINY

    def recipe(self) -> dict[str, Any]:
        """The recipe's fields that were given."""
        chosen = ("epochs", "updates", "minutes", "seed", "peak_lr")
        return {k: v for k in chosen if (v := getattr(self, k)) is not None}

    def check(self) -> None:
        """Raises UsageError for options that do not go together."""
        if self.unlabelled is not None and not (self.teachers or self.mixed):
            raise click.UsageError("--unlabelled is for --teacher: without one there is nothing to learn from it")
        if self.mixed and not self.intensity and self.epochs:
            raise click.UsageError("cosyvoice-tiny learns from a mix of clips without epochs: give --updates or --minutes")
        its_own = self.updates is not None or self.minutes is not None or self.resume or self.device != "cpu"
        if not self.mixed and its_own:
            raise click.UsageError("--updates, --minutes, --device and --resume are cosyvoice-tiny's")
        if self.epochs == 0 and (self.model != WHISPER_TINY_CLS or self.init):
            raise click.UsageError("--epochs 0 is for whisper-tiny-cls without --init: only its classifier learns")
        if self.updates == 0 and (self.minutes is not None or self.device != "cpu" or self.teachers):
            raise click.UsageError("--updates 0 lets only the classifier learn: without --minutes, --device and --teacher")
        others = self.teachers or self.epochs or self.updates is not None or self.peak_lr or self.minutes or self.device != "cpu"
        if self.intensity and (not self.model.startswith("cosyvoice") or others):
            raise click.UsageError("--intensity fits one linear head of CosyVoice: it goes with --init, --seed, --threads")


@click.command()
@gathered(
    TrainOptions,
    "asked",
    [
        click.option("--model", type=click.Choice(MODEL_NAMES), default=COSYVOICE_TINY, help="Which model."),
        click.option("--data", type=FOLDER, required=True, multiple=True,
                     help="Folder with manifest.csv and splits train and dev; give several, of which corpora are balanced."),
        click.option("--epochs", type=click.IntRange(0), default=None,
                     help="Epochs [default: the recipe's]; 0 of whisper-tiny-cls: its classifier alone learns."),
        click.option("--updates", type=click.IntRange(0), default=None,
                     help="Of cosyvoice-tiny; 0: only the classifier of --init goes on to learn, as on own calls."),
        click.option("--minutes", type=click.FloatRange(0, min_open=True), default=None,
                     help="cosyvoice-tiny: end after so long, with fewer updates if need be (a lent accelerator)."),
        click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where cosyvoice-tiny learns."),
        click.option("--seed", type=int, default=None, help="Random seed [default: the recipe's]."),
        click.option("--lr", "peak_lr", type=click.FloatRange(0, min_open=True), default=None,
                     help="Peak learning rate [default: the recipe's]."),
        click.option("--init", type=FILE, default=None, help="Checkpoint to continue from [default: from scratch]."),
        click.option("--teacher", "teachers", is_flag=False, flag_value="whisper", multiple=True, metavar="[FILE]",
                     help="Distil as well: whisper (tiny.en) or whisper-base (both edgeemo[teacher]), a folder with another "
                     "CTranslate2 Whisper, or a checkpoint of cosyvoice-tiny or whisper-tiny-cls. Of the first cosyvoice-nano "
                     "follows states, of all soft labels. cosyvoice-tiny follows Whisper tiny.en and any further Whisper."),
        click.option("--unlabelled", type=FOLDER, default=None, help="Any other speech, of which teachers' states are followed."),
        click.option("--resume", is_flag=True, help="cosyvoice-tiny: go on where a run with the same --out was cut off."),
        click.option("--intensity", is_flag=True,
                     help="Only fit the second level of angry (annoyed, furious) on the weights of --init."),
        click.option("--threads", type=click.IntRange(1), default=1, help="CPU threads; part of what makes a run repeatable."),
    ],
)  # fmt: skip
@output_options("build/<model>.safetensors")
@user_errors
def train(asked: TrainOptions, out: Path | None, force: bool, as_json: bool) -> None:
    """Train a model; keeps the weights that are best on the dev split."""
    asked.check()
    target = check_output(out or BUILD / f"{asked.model.replace('-', '_')}.safetensors", force or asked.resume)
    if asked.intensity:
        report = _fit_intensity(asked, target)
        said = f"dev macro-F1 of annoyed and furious {report['dev_intensity_macro_f1']}, weights in {target}"
    else:
        report = _train(asked, target)
        said = f"best dev macro-F1 {report['best_dev_macro_f1']}, weights in {target}"
    print_json(report) if as_json else click.echo(said)


def _fit_intensity(asked: TrainOptions, target: Path) -> dict[str, Any]:
    from edgeemo.model.checkpoint import committed_checkpoint
    from edgeemo.train.intensity import fit_intensity

    seed = 1 if asked.seed is None else asked.seed
    return fit_intensity(asked.data, asked.init or committed_checkpoint(asked.model), target, asked.threads, seed)


def _train(asked: TrainOptions, target: Path) -> dict[str, Any]:
    """The training report, weights in ``target``."""
    from edgeemo.model.config import CallConfig
    from edgeemo.model.whisper import TINY, load_whisper
    from edgeemo.train import listener, trainer, windows
    from edgeemo.train.teacher import load_teacher

    given = asked.recipe()
    if asked.mixed:
        return listener.train_listener(
            asked.data,
            target,
            replace(listener.ListenerRecipe(), **given),
            asked.threads,
            init=asked.init,
            unlabelled=asked.unlabelled,
            resume=asked.resume,
            device=asked.device,
            teachers=[load_whisper(t) for t in asked.teachers if t != TINY],
        )
    teachers = [load_teacher(t, CallConfig.sample_rate) for t in asked.teachers]
    if asked.model in windows.RECIPES:
        recipe = replace(windows.RECIPES[asked.model], **given)
        return windows.train_windowed(
            asked.model, asked.data, target, recipe, asked.threads, asked.init, teachers, asked.unlabelled
        )
    return trainer.train(
        asked.data, target, replace(trainer.Recipe(), **given), asked.threads, asked.init, teachers, asked.unlabelled
    )
