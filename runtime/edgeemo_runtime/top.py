"""`edgeemo-run top STATUS`: a running process's figures as a table that renews itself (rich, the extra edgeemo-runtime[ops])."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from edgeemo_runtime.errors import EdgeEmoError

STALE_S = 5.0


def read_status(path: Path) -> dict[str, Any]:
    """What a live process wrote. Raises EdgeEmoError if there is nothing to read."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise EdgeEmoError(f"{path}: cannot be read ({error.strerror}); [metrics] status in the config names the file") from error
    except ValueError as error:
        raise EdgeEmoError(f"{path}: is no status file ({error})") from error
    return document


def table(status: dict[str, Any], age_s: float) -> Any:
    from rich.console import Group
    from rich.table import Table

    stale = f"  [red]not written for {age_s:.0f} s[/red]" if age_s > STALE_S else ""
    head = Table.grid(padding=(0, 2))
    head.add_row("serving", f"{status['serving']}{stale}", "up", f"{status['uptime_s']:.0f} s")
    head.add_row("streams", f"{status['streams']} of {status['max_streams']}", "in steps", f"{status['utilisation']:.1%}")
    head.add_row("canary", status["canary"] or "-", "resident", f"{status['resident_mb']} MB")
    models = Table(title="models", title_justify="left")
    for name in ("version", "steps", "jump rate", "low", "late", "errors", "handoffs", "most said"):
        models.add_column(name, justify="left" if name in ("version", "most said") else "right")
    for version, m in status["models"].items():
        most = max(m["labels"], key=m["labels"].get) if m["steps"] else "-"
        low = f"{m['low_confidence'] / m['steps']:.1%}" if m["steps"] else "-"
        numbers = (m["steps"], f"{m['jump_rate']:.2%}", low, f"{m['late_share']:.2%}", m["errors"], sum(m["handoffs"].values()))
        models.add_row(version, *map(str, numbers), most)
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
        return table(read_status(path), time.time() - path.stat().st_mtime)

    if once:
        console = Console()
        (console if console.is_terminal else Console(width=140)).print(now())
        return
    with Live(now(), refresh_per_second=2) as live:
        while True:
            time.sleep(0.5)
            live.update(now())
