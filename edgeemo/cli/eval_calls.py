"""`edgeemo eval-calls`: the runtime's decision rules on long calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from edgeemo_runtime.decision import PRESETS
from edgeemo_runtime.errors import EdgeEmoError

from edgeemo.cli.options import FILE, data_options, report_options
from edgeemo.console import check_report, print_json, progress_bar, show_table, user_errors, write_report


@click.command("eval-calls")
@click.argument("artifact", type=FILE)
@data_options(several=True)
@click.option("--config", type=FILE, default=None, help="edgeemo-run's TOML: [decision] and [audio] count.")
@click.option("--rules", type=click.Choice(list(PRESETS)), default="call-centre", help="Decision rules where there is no config.")
@click.option("--skip-silence", is_flag=True, help="Silent steps do not go through the network.")
@report_options
@user_errors
def eval_calls(
    artifact: Path, data: tuple[Path, ...], split: str | None, limit: int | None, config: Path | None, rules: str, skip_silence:
    bool, out: Path | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Score the runtime's decision rules on long calls joined from real clips, next to the raw answers."""
    from edgeemo_runtime.artifact import load_artifact
    from edgeemo_runtime.ops.config import Config, load_config

    from edgeemo.data.clips import evenly, read_manifest
    from edgeemo.evaluate.calls import changing_calls, evaluate_calls, steady_calls

    check_report(out, force)
    settings = load_config(config) if config is not None else replace(Config(), decision=PRESETS[rules])
    audio = replace(settings.audio, skip_silence=True) if skip_silence else settings.audio
    clips = evenly([c for folder in data for c in read_manifest(folder, split)], limit)
    stream = load_artifact(artifact).manifest["stream"]
    if stream is None:
        raise EdgeEmoError(f"{artifact}: has no stream contract, so audio cannot be streamed through it")
    document: dict[str, Any] = {"artifact": str(artifact), "split": split}
    kinds = {"steady": steady_calls(clips, stream["sample_rate"]), "changing": changing_calls(clips, stream["sample_rate"])}
    if not any(kinds.values()):
        raise EdgeEmoError(f"{', '.join(map(str, data))}: not enough audio of one speaker and label to join to calls")
    with progress_bar("calls", sum(map(len, kinds.values()))) as advance:
        for kind, calls in kinds.items():
            document[kind] = evaluate_calls(artifact, calls, settings.decision, audio, advance) if calls else None
    write_report(document, out, force)
    if as_json:
        print_json(document)
        return
    for kind, found in document.items():
        if isinstance(found, dict):
            title = f"{kind}: {found['calls']} calls, {found['steps']} steps, {found['listening_steps']} of them listening"
            scores = [[name, *(f"{found[n].get(name, float('nan')):.4f}" for n in ("raw", "decided"))] for name in found["raw"]]
            show_table(title, ["", "raw", "decided"], scores)
            click.echo(
                f"{found['decisions']} decisions, {found['low_share']:.1%} low; {found['handoffs']} of {found['calls']} calls "
                f"handed off; right label in {found['ever_right']:.1%} of the calls, {_seconds(found['first_right_s'])} after "
                f"the first speech (median; of all calls {_seconds(found['first_right_of_all_s'])})"
            )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"
