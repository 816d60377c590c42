"""edgeemo-run: an artifact and calls in, emotions out. argparse, so that a board needs nothing more than the engine does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeemo_runtime import process
from edgeemo_runtime.audio import CHANNELS, ENCODINGS
from edgeemo_runtime.decision import PRESETS
from edgeemo_runtime.errors import EdgeEmoError, first_line, printable
from edgeemo_runtime.ops import commands, run_calls
from edgeemo_runtime.rates import MAX_RATE, MIN_RATE

COMMANDS = ("run", *commands.COMMANDS)
_EPILOG = "`edgeemo-run ARTIFACT AUDIO...` is short for `edgeemo-run run ...`; every command takes --help and --debug."


def _add_run(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("run", help="calls through an engine: an answer every 160 ms", allow_abbrev=False)
    parser.add_argument("artifact", type=Path, help="file written by `edgeemo compile` for this machine, or a folder of models")
    parser.add_argument("audio", nargs="+", help="one call each: audio files, headerless ones by suffix, or - for stdin")
    parser.add_argument("--rate", type=int, default=8000, help="sample rate of headerless audio, Hz (default 8000)")
    parser.add_argument("--encoding", choices=ENCODINGS, default="s16", help="of headerless stdin (default s16, little-endian)")
    parser.add_argument("--channel", choices=CHANNELS, default="mix", help="of stereo; both: caller (left) and agent, two calls")
    parser.add_argument("--config", type=Path, help="TOML file: streams, audio, decision rules, canary, metrics, models")
    parser.add_argument("--rules", choices=PRESETS, help="decision rules (default call-centre)")
    parser.add_argument("--alpha", type=float, help="weight of the newest step in the moving average, in (0, 1]")
    parser.add_argument("--streams", type=int, help="calls side by side (default 16)")
    parser.add_argument("--skip-silence", action="store_true", help="silent calls do not go through the network")
    parser.add_argument("--real-time", action="store_true", help="files come as live calls would, and the process is operated")
    parser.add_argument("--repeat", action="store_true", help="with --real-time: the files again and again, until told to stop")
    parser.add_argument("--observe", help="how long a canary is watched before it serves all, e.g. 30m (default 30m)")
    commands.add_trust(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object per result and line")
    output.add_argument("--summary", action="store_true", help="only the table at the end")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeemo-run", description="Emotion of calls, every 160 ms, from a compiled artifact.", epilog=_EPILOG
    )
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(verbs)
    commands.add_parsers(verbs)
    return parser


def _run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> bool:
    if arguments.command != "run":
        return commands.run(arguments)
    if arguments.streams is not None and arguments.streams < 1:
        parser.error("--streams must be at least 1")
    if not MIN_RATE <= arguments.rate <= MAX_RATE:
        parser.error(f"--rate must lie in {MIN_RATE}..{MAX_RATE} Hz")
    if arguments.repeat and not arguments.real_time:
        parser.error("--repeat is for --real-time")
    return run_calls.run(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """The one place where an error becomes a line and an exit code: 1 for what was given, and for what nobody foresaw."""
    if argv is None:
        process.without_openssl()
        argv = sys.argv[1:]
    debug = "--debug" in argv
    words = [word for word in argv if word != "--debug"]
    if words and words[0] not in (*COMMANDS, "-h", "--help"):
        words.insert(0, "run")
    parser = _parser()
    arguments = parser.parse_args(words)
    try:
        if not _run(arguments, parser):
            sys.exit(1)
    except EdgeEmoError as error:
        print(f"edgeemo-run: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        what = printable(str(getattr(arguments, "artifact", arguments.command)))
        said = f"{what}: {type(error).__name__}: {first_line(error)}, internal error; --debug shows it"
        print(f"edgeemo-run: {said}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
