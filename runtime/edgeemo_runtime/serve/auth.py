"""Who may connect over HTTP and WebSocket: bearer tokens, sessions of the page, and the signatures of Twilio and AudioHook.

Every comparison takes the same time whatever is brought. Secrets come from files, and go nowhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Mapping

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.serve.settings import Settings, read_lines, read_secret

SESSION_S = 12 * 3600.0
SESSIONS = 1000
COOKIE = "edgeemo"
CLOCK_SKEW_S = 3  # of AudioHook signatures; docs of Genesys' reference implementation
SIGNATURE_AGE_S = 10
MIN_NONCE = 22  # characters
SIGNED = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
_INPUT = re.compile(
    r'([a-z*][a-z0-9_.*-]*)=(\(((?:"[^"\\]*"(?: |(?=\))))*)\)((?:;[a-z*][a-z0-9_.*-]*=(?:"[^"\\]*"|\d{1,15}))*))', re.ASCII
)
_SIGNATURE = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):", re.ASCII)


class Auth:
    """Checks that the settings ask of a client. Raises EdgeEmoError if a file of secrets cannot be read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: dict[str, float] = {}
        self.load()

    def load(self) -> None:
        """Reads the files again: tokens may be added and taken away while calls run."""
        rules = self._settings.auth
        tokens = [line.encode() for name in rules.tokens for line in read_lines(name)]
        twilio = read_secret(rules.twilio_token).encode() if rules.twilio_token else b""
        audiohook = (
            dict(_audiohook_key(line, rules.audiohook_keys) for line in read_lines(rules.audiohook_keys))
            if rules.audiohook_keys
            else {}
        )
        self._tokens, self._twilio, self._audiohook = tokens, twilio, audiohook

    @property
    def asked(self) -> bool:
        """Whether a client must bring something next to a certificate."""
        return bool(self._tokens or self._twilio or self._audiohook)

    @property
    def any(self) -> bool:
        """Whether a client is authenticated in any way."""
        return self.asked or bool(self._settings.tls.client_ca)

    # -- tokens and sessions ---------------------------------------------------------------------------------------------
    def token(self, brought: str) -> bool:
        data = brought.encode()
        found = False
        for token in self._tokens:  # all of them, whichever it is
            found |= hmac.compare_digest(token, data)
        return found

    def headers(self, headers: Mapping[str, str]) -> bool:
        """Authorization: Bearer TOKEN, or Basic with a token for the password, as mod_audio_fork sends it."""
        kind, _, value = headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.token(value.strip())
        if kind.lower() == "basic":
            try:
                user_and_password = base64.b64decode(value.strip(), validate=True).decode()
            except (binascii.Error, ValueError):
                return False
            return self.token(user_and_password.partition(":")[2])
        return False

    def begin_session(self) -> str:
        """A new session's secret, for a cookie."""
        now = time.monotonic()
        self._sessions = {k: v for k, v in self._sessions.items() if v > now}
        while len(self._sessions) >= SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        session = secrets.token_urlsafe(32)
        self._sessions[hashlib.sha256(session.encode()).hexdigest()] = now + SESSION_S
        return session

    def session(self, cookie: str) -> bool:
        return self._sessions.get(hashlib.sha256(cookie.encode()).hexdigest(), 0.0) > time.monotonic()

    # -- signatures ------------------------------------------------------------------------------------------------------
    def twilio(self, headers: Mapping[str, str], url: str) -> bool:
        """X-Twilio-Signature: base64(HMAC-SHA1(auth token, URL)), of a request without parameters, as a WebSocket's is."""
        signature = headers.get("X-Twilio-Signature", "")
        if not self._twilio or not signature:
            return False
        expected = base64.b64encode(hmac.digest(self._twilio, url.encode(), "sha1"))
        return hmac.compare_digest(expected, signature.encode())

    def audiohook(self, headers: Mapping[str, str], target: str, now: float | None = None) -> bool:
        """An HTTP message signature (RFC 9421, hmac-sha256) over SIGNED, made within the last seconds by the key's secret."""
        if not self._audiohook:
            return False
        given, signed = (
            _INPUT.fullmatch(headers.get("Signature-Input", "").strip()),
            _SIGNATURE.fullmatch(headers.get("Signature", "").strip()),
        )
        if given is None or signed is None or given[1] != signed[1]:
            return False
        names = re.findall(r'"([^"]*)"', given[3])
        parameters = dict(re.findall(r';([a-z*][a-z0-9_.*-]*)=(?:"([^"]*)"|\d+)', given[4]))
        numbers = {k: int(v) for k, v in re.findall(r";(created|expires)=(\d+)", given[4])}
        now = time.time() if now is None else now
        created, expires = numbers.get("created", -(10**12)), numbers.get("expires", 10**15)
        fresh = created - CLOCK_SKEW_S <= now <= created + SIGNATURE_AGE_S + CLOCK_SKEW_S and now <= expires + CLOCK_SKEW_S
        sound = (
            len(set(names)) == len(names)
            and set(SIGNED) <= set(names)
            and len(parameters.get("nonce", "")) >= MIN_NONCE
            and parameters.get("keyid") == headers.get("X-API-KEY")
            and parameters.get("alg", "hmac-sha256") == "hmac-sha256"
        )
        if not fresh or not sound:
            return False
        derived = {"@request-target": target, "@authority": headers.get("Host", "")}
        lines = []
        for name in names:
            value = derived.get(name) if name.startswith("@") else headers.get(name)
            if value is None:
                return False
            lines.append(f'"{name}": {value.strip()}')
        lines.append(f'"@signature-params": {given[2]}')
        secret = self._audiohook.get(parameters["keyid"])
        expected = hmac.digest(secret or secrets.token_bytes(32), "\n".join(lines).encode(), "sha256")
        try:
            brought = base64.b64decode(signed[2], validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(expected, brought) and bool(secret)

    # -- browsers --------------------------------------------------------------------------------------------------------
    def origin(self, headers: Mapping[str, str]) -> bool:
        """Whether a page's script may connect: one of this server's own pages, or of an origin in the settings. Programs that are
        no browsers bring no origin."""
        origin = headers.get("Origin")
        if origin is None or origin in self._settings.auth.origins:
            return True
        return origin.partition("://")[2] == headers.get("Host", "")

    def host(self, headers: Mapping[str, str]) -> bool:
        """Without authentication only names of this machine are answered: a page elsewhere may point its own name here (DNS
        rebinding) and would be of our origin."""
        if self.any or self._settings.auth.insecure:
            return True
        name = headers.get("Host", "")
        name = name.rpartition(":")[0] if re.search(r":\d+$", name) else name
        name = name.removeprefix("[").removesuffix("]")
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"


def _audiohook_key(line: str, name: str) -> tuple[str, bytes]:
    key, _, secret = line.partition(" ")
    try:
        data = base64.b64decode(secret.strip(), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not key or not data:
        raise EdgeEmoError(f"{name}: each line is an API key, a space, and its client secret in base64")
    return key, data
