"""An engine process as the front sees it, where no engine is needed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from typing import cast

import pytest
from edgeemo_runtime.serve.engine_process import EngineProcess, Owner


def test_a_kill_does_not_collect_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Popen.send_signal`` polls first: asyncio then looks for a child that is gone, logs so and reports 255."""

    async def killed() -> int:
        made = EngineProcess(0, cast(Owner, None))
        made._process = await asyncio.create_subprocess_exec("sleep", "60")
        monkeypatch.setattr(subprocess.Popen, "poll", lambda self: pytest.fail("a child was waited for behind asyncio's back"))
        made.kill()
        return await made._process.wait()

    assert asyncio.run(killed()) == -signal.SIGKILL
