"""Tokens, sessions, signatures and origins."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from edgeemo_runtime import EdgeEmoError
from edgeemo_runtime.serve.auth import Auth
from edgeemo_runtime.serve.settings import AuthRules, Settings

NOW = 1_700_000_000


def secret_file(tmp_path: Path, text: str, name: str = "secret") -> str:
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def auth(**rules: object) -> Auth:
    return Auth(Settings(auth=AuthRules(**rules)))  # type: ignore[arg-type]


def test_tokens_come_from_files_and_may_change(tmp_path: Path) -> None:
    first, second = secret_file(tmp_path, "# ours\nold-token\nnew-token\n", "a"), secret_file(tmp_path, "third\n", "b")
    known = auth(tokens=(first, second))
    for token in ("old-token", "new-token", "third"):
        assert known.headers({"Authorization": f"Bearer {token}"})
        basic = base64.b64encode(f"user:{token}".encode()).decode()
        assert known.headers({"Authorization": f"Basic {basic}"})
    for wrong in ("", "Bearer", "Bearer old-toke", "Basic old-token", "Basic ====", "Digest old-token"):
        assert not known.headers({"Authorization": wrong})
    Path(first).write_text("newest\n")
    known.load()
    assert known.token("newest") and not known.token("old-token")


def test_secrets_that_others_may_read_are_refused(tmp_path: Path) -> None:
    name = secret_file(tmp_path, "token\n")
    Path(name).chmod(0o644)
    with pytest.raises(EdgeEmoError, match="others may read"):
        auth(tokens=(name,))
    with pytest.raises(EdgeEmoError, match="holds no secret"):
        auth(tokens=(secret_file(tmp_path, "\n", "empty"),))


def test_twilio_signatures(tmp_path: Path) -> None:
    """Against HMAC-SHA1 as Twilio defines it, and against its own validator where that is installed."""
    token, url = "12345", "wss://calls.example.com/v1/listen?call=7"
    expected = base64.b64encode(hmac.new(token.encode(), url.encode(), hashlib.sha1).digest()).decode()
    known = auth(twilio_token=secret_file(tmp_path, token))
    assert known.twilio({"X-Twilio-Signature": expected}, url)
    assert not known.twilio({"X-Twilio-Signature": expected}, url + "8")
    assert not known.twilio({}, url)
    validator = pytest.importorskip("twilio.request_validator").RequestValidator(token)
    assert known.twilio({"X-Twilio-Signature": validator.compute_signature(url, {})}, url)


def signed(secret: bytes, created: int = NOW, nonce: str = "VGhpc0lzQVVuaXF1ZU5vbmNl", key: str = "key-1") -> dict[str, str]:
    """Headers as Genesys' client makes them (audiohook reference implementation, signature-builder)."""
    headers = {
        "Host": "audiohook.example.com", "Audiohook-Organization-Id": "d7934305", "Audiohook-Session-Id": "e160e428",
        "Audiohook-Correlation-Id": "e160e428", "X-API-KEY": key,
    }  # fmt: skip
    names = [
        "@request-target",
        "@authority",
        "audiohook-organization-id",
        "audiohook-session-id",
        "audiohook-correlation-id",
        "x-api-key",
    ]
    inner = "(" + " ".join(f'"{n}"' for n in names) + ")"
    parameters = f'{inner};keyid="{key}";nonce="{nonce}";alg="hmac-sha256";created={created};expires={created + 10}'
    values = ["/v1/listen", headers["Host"], "d7934305", "e160e428", "e160e428", key]
    base = "\n".join(f'"{n}": {v}' for n, v in zip(names, values, strict=True)) + f'\n"@signature-params": {parameters}'
    signature = base64.b64encode(hmac.new(secret, base.encode(), hashlib.sha256).digest()).decode()
    return {**headers, "Signature-Input": f"sig1={parameters}", "Signature": f"sig1=:{signature}:"}


def test_audiohook_signatures(tmp_path: Path) -> None:
    secret = b"a client secret of some length"
    known = auth(audiohook_keys=secret_file(tmp_path, f"key-1 {base64.b64encode(secret).decode()}\n"))
    good = signed(secret)

    class Headers(dict):
        def get(self, name: str, default: object = None) -> object:  # as HTTP's are
            return next((v for k, v in self.items() if k.lower() == name.lower()), default)

    def check(headers: dict[str, str], target: str = "/v1/listen", now: float = NOW + 1) -> bool:
        return known.audiohook(Headers(headers), target, now)

    assert check(good)
    assert not check(good, "/v1/other")
    assert not check(good, now=NOW + 60)
    assert not check(good, now=NOW - 60)
    assert not check({**good, "Audiohook-Session-Id": "another"})
    assert not check({**good, "X-API-KEY": "key-2"})
    assert not check(signed(secret, nonce="short"))
    assert not check(signed(b"another secret"))
    assert not check(signed(secret, key="unknown"))
    assert not check({k: v for k, v in good.items() if k != "Signature"})
    assert not check({**good, "Signature-Input": "sig1=" + "(" * 1000})


def test_pages_elsewhere_may_not_connect() -> None:
    known = auth(origins=("https://desk.example.com",))
    assert known.origin({"Host": "127.0.0.1:8080"})
    assert known.origin({"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"})
    assert known.origin({"Host": "127.0.0.1:8080", "Origin": "https://desk.example.com"})
    for wrong in ("http://evil.example.com", "null", "http://127.0.0.1:8081", ""):
        assert not known.origin({"Host": "127.0.0.1:8080", "Origin": wrong})
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080", "localhost:9"):
        assert known.host({"Host": host})
    for host in ("evil.example.com:8080", "", "127.0.0.1.evil.example.com", "192.168.1.4:8080"):
        assert not known.host({"Host": host})  # a name that somebody else points here


def test_sessions_end() -> None:
    known = auth()
    session = known.begin_session()
    assert known.session(session)
    assert not known.session(session + "x") and not known.session("")
