"""edgeemo-serve: live calls in over the network, emotions out."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeemo_runtime.errors import EdgeEmoError, first_line, printable
from edgeemo_runtime.ops import commands
from edgeemo_runtime.ops.lines import log, say
from edgeemo_runtime.serve.settings import LISTENERS, Settings, load_settings, parse_address

if TYPE_CHECKING:
    from edgeemo_runtime.serve.service import Service

_EPILOG = (
    "--listen audiosocket=HOST:PORT takes the place of the addresses in the config; audiosocket= listens nowhere. "
    "docs/live-calls.md describes protocols, events and serve.toml."
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeemo-serve", description="A service for live calls: WebSocket, AudioSocket and RTP in, emotions out.",
        epilog=_EPILOG, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("artifact", type=Path, help="file written by `edgeemo compile` for this machine, or a folder of models")
    parser.add_argument("--config", type=Path, help="TOML file: run.toml's sections, and listen, limits, auth, tls, results ...")
    parser.add_argument(
        "--listen", action="append", default=[], metavar="WHAT=HOST:PORT", help=f"of {', '.join(LISTENERS)}; again for more"
    )
    parser.add_argument("--http", metavar="HOST:PORT", help="the page, results and metrics (default 127.0.0.1:8080)")
    parser.add_argument("--engines", type=int, help="engine processes (default: one for each core but one)")
    parser.add_argument("--insecure", action="store_true", help="serve others than this machine without authentication")
    commands.add_trust(parser)
    return parser


def listening(settings: Settings, listen: list[str], http: str | None) -> Settings:
    """The settings with the command line's addresses. Raises EdgeEmoError."""
    found: dict[str, list[str]] = {}
    for text in [*listen, *([f"http={http}"] if http is not None else [])]:
        name, equal, address = text.partition("=")
        if name not in LISTENERS or not equal:
            raise EdgeEmoError(f"--listen takes {'=, '.join(LISTENERS)}= and an address, not {text}")
        if address:
            parse_address(address, name)
        found.setdefault(name, []).extend([address] if address else [])
    return replace(settings, listen=replace(settings.listen, **{k: tuple(v) for k, v in found.items()}))


async def _serve(arguments: argparse.Namespace) -> None:
    from edgeemo_runtime.serve.service import Service

    settings, config = load_settings(arguments.config)
    settings = listening(settings, arguments.listen, arguments.http)
    if arguments.engines is not None:
        settings = replace(settings, serve=replace(settings.serve, engines=arguments.engines))
    if arguments.insecure:
        settings = replace(settings, auth=replace(settings.auth, insecure=True))
    keys = [*arguments.trust, *config.models.trust]
    service = Service(arguments.artifact, settings, config, keys, arguments.allow_writable or config.models.allow_writable)
    service.install_signal_handlers()
    await service.start()
    try:
        _say_ready(service, arguments.artifact, settings)
        await service.wait()
    finally:
        await service.close()
        log("stopped")


def _say_ready(service: Service, artifact: Path, settings: Settings) -> None:
    addresses = {name: [f"{host}:{port}" for host, port in found] for name, found in service.addresses.items()}
    addresses["rtp"] = list(settings.listen.rtp)
    log("serving", artifact=str(artifact), channels=service.pool.capacity, engines=len(service.pool.engines), **addresses)
    if addresses["http"]:
        scheme = "https" if settings.tls.certificate else "http"
        say(f"edgeemo-serve: {service.pool.capacity} channels; page at {scheme}://{addresses['http'][0]}")


def main(argv: Sequence[str] | None = None) -> None:
    """Exit code 1 for what cannot be served, with one line."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    arguments = _parser().parse_args([w for w in words if w != "--debug"])
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        print("edgeemo-serve: needs aiohttp: pip install 'edgeemo-runtime[serve]'", file=sys.stderr)
        sys.exit(1)
    try:
        asyncio.run(_serve(arguments))
    except EdgeEmoError as error:
        print(f"edgeemo-serve: {printable(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        print(f"edgeemo-serve: {type(error).__name__}: {first_line(error)}, internal error; --debug shows it", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
