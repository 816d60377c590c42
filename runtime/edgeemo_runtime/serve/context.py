"""The service as listeners see it that they belong to (service.py)."""

from __future__ import annotations

from typing import Any, Protocol

from edgeemo_runtime.serve.auth import Auth
from edgeemo_runtime.serve.calls import Calls
from edgeemo_runtime.serve.doorman import Doorman
from edgeemo_runtime.serve.pool import Pool
from edgeemo_runtime.serve.settings import Settings


class Service(Protocol):
    settings: Settings
    auth: Auth
    pool: Pool
    calls: Calls
    doorman: Doorman
    rtp: Any  # rtp.RtpPorts, which sees this module

    @property
    def readiness(self) -> str: ...
