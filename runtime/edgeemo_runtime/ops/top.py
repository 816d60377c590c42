"""`edgeemo-run top STATUS`: a running process's figures as a table that renews itself (rich, the extra edgeemo-runtime[ops])."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgeemo_runtime.documents import read_json
from edgeemo_runtime.errors import EdgeEmoError, first_line, printable

STALE_S = 5.0


def read_status(path: Path) -> dict[str, Any]:
    """Reads the status that a live process wrote. Raises EdgeEmoError if there is nothing to read."""
    if not path.exists():
        raise EdgeEmoError(f"{path}: no such file; [metrics] status in the config of a live process names it")
    return read_json(path)


def table(status: dict[str, Any], age_s: float) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    serving = Text(printable(str(status["serving"])))
    if age_s > STALE_S:
        serving.append(f"  not written for {age_s:.0f} s", "red")
    head = Table.grid(padding=(0, 2))
    head.add_row("serving", serving, "up", f"{status['uptime_s']:.0f} s")
    head.add_row("streams", f"{status['streams']} of {status['max_streams']}", "in steps", f"{status['utilisation']:.1%}")
    head.add_row("canary", Text(printable(str(status["canary"] or "-"))), "resident", f"{status['resident_mb']} MB")
    models = Table(title="models", title_justify="left")
    for name in ("version", "steps", "listening", "decisions", "low", "jump rate", "late", "errors", "handoffs", "most said"):
        models.add_column(name, justify="left" if name in ("version", "most said") else "right")
    for version, m in status["models"].items():
        most = max(m["labels"], key=m["labels"].get) if m["steps"] else "-"
        low = f"{m['low_confidence'] / m['decisions']:.1%}" if m["decisions"] else "-"
        handed = sum(m["handoffs"].values())
        said = (m["listening"], m["decisions"], low, f"{m['jump_rate']:.2%}")
        numbers = (m["steps"], *said, f"{m['late_share']:.2%}", m["errors"], handed)
        models.add_row(Text(printable(version)), *map(str, numbers), Text(printable(most)))
    audio = Table(title="audio", title_justify="left")
    for name in status["audio"]:
        audio.add_column(name.replace("_", " "), justify="right")
    audio.add_row(*map(str, status["audio"].values()))
    return Group(head, models, audio)


def top(path: Path, once: bool) -> None:
    """Until interrupted; ``once`` prints one table."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as error:
        raise EdgeEmoError("top needs rich: pip install 'edgeemo-runtime[ops]'") from error

    def now() -> Any:
        status = read_status(path)
        try:
            return table(status, time.time() - path.stat().st_mtime)
        except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
            raise EdgeEmoError(f"{path}: is no status of a live process ({first_line(error)})") from error

    if once:
        console = Console()
        (console if console.is_terminal else Console(width=140)).print(now())
        return
    with Live(now(), refresh_per_second=2) as live:
        while True:
            time.sleep(0.5)
            live.update(now())
