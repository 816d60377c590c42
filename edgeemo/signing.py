"""Ed25519 keys as minisign writes them (https://jedisct1.github.io/minisign/), with and without a password, and what they sign.

The curve and the key derivation are libsodium's, through PyNaCl; here is the format alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass

from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.trust import HASHED, KEY_ALGORITHM, TRUSTED, UNTRUSTED, digest
from nacl.bindings import crypto_pwhash_scryptsalsa208sha256_ll
from nacl.bindings.crypto_pwhash import nacl_bindings_pick_scrypt_params
from nacl.signing import SigningKey

SCRYPT, PLAIN = b"Sc", b"\0\0"  # how a secret key is encrypted
CHECKSUM = b"B2"
SALT, ID, SECRET, SUM = 32, 8, 64, 32  # bytes
NO_CHECKSUM = bytes(SUM)  # without a password
HIDDEN = ID + SECRET + SUM  # what the password hides
KEY_BYTES = 6 + SALT + 16 + HIDDEN
OPERATIONS, MEMORY = 33_554_432, 1 << 30  # of the derivation: libsodium's "sensitive", as minisign takes them


@dataclass(frozen=True)
class SecretKey:
    id: bytes
    seed: bytes  # 32 bytes

    @property
    def public(self) -> bytes:
        return bytes(SigningKey(self.seed).verify_key)

    def sign(self, message: bytes) -> bytes:
        return SigningKey(self.seed).sign(message).signature


def new_key() -> SecretKey:
    return SecretKey(os.urandom(ID), bytes(SigningKey.generate()))


def public_text(key: SecretKey) -> str:
    """A .pub file."""
    data = base64.b64encode(KEY_ALGORITHM + key.id + key.public).decode()
    return f"{UNTRUSTED}minisign public key {key.id[::-1].hex().upper()}\n{data}\n"


def secret_text(key: SecretKey, password: str | None) -> str:
    """A secret key's file; with a password nobody reads the key without it."""
    body = key.id + key.seed + key.public
    if password is None:
        method, salt, limits, hidden = PLAIN, bytes(SALT), (0, 0), body + NO_CHECKSUM
    else:
        method, salt, limits = SCRYPT, os.urandom(SALT), (OPERATIONS, MEMORY)
        hidden = _hide(body + _checksum(body), password, salt, *limits)
    costs = b"".join(limit.to_bytes(8, "little") for limit in limits)
    data = base64.b64encode(KEY_ALGORITHM + method + CHECKSUM + salt + costs + hidden).decode()
    return f"{UNTRUSTED}minisign {'encrypted ' if password is not None else ''}secret key\n{data}\n"


def is_encrypted(text: str, name: str) -> bool:
    """Whether a secret key's file needs a password. Raises EdgeEmoError naming ``name`` for what is no such file."""
    return _decoded(text, name)[2:4] == SCRYPT


def parse_secret_key(text: str, name: str, password: str | None) -> SecretKey:
    """The key in a secret key's file. Raises EdgeEmoError naming ``name`` for another file, or a wrong password."""
    data = _decoded(text, name)
    at = 6
    salt, at = data[at : at + SALT], at + SALT
    limits = [int.from_bytes(data[at + i : at + i + 8], "little") for i in (0, 8)]
    hidden = data[at + 16 :]
    if data[2:4] == SCRYPT:
        if password is None:
            raise EdgeEmoError(f"{name}: has a password; give it when asked, or in a file (--password-file)")
        if not 0 < limits[0] <= OPERATIONS or not 0 < limits[1] <= MEMORY:
            raise EdgeEmoError(f"{name}: asks for a key derivation that minisign does not use")
        hidden = _hide(hidden, password, salt, limits[0], limits[1])
    body, checksum = hidden[: ID + SECRET], hidden[ID + SECRET :]
    if data[2:4] == SCRYPT and _checksum(body) != checksum:
        raise EdgeEmoError(f"{name}: wrong password")
    key = SecretKey(body[:ID], body[ID : ID + 32])
    if key.public != body[ID + 32 :]:
        raise EdgeEmoError(f"{name}: is damaged; its two halves do not belong together")
    return key


def _decoded(text: str, name: str) -> bytes:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(UNTRUSTED.strip())]
    try:
        data = base64.b64decode(lines[0], validate=True) if len(lines) == 1 else b""
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != KEY_BYTES or data[:2] != KEY_ALGORITHM or data[2:4] not in (SCRYPT, PLAIN) or data[4:6] != CHECKSUM:
        raise EdgeEmoError(f"{name}: is no minisign secret key; `edgeemo keygen` and `minisign -G` write one")
    return data


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(KEY_ALGORITHM + body, digest_size=SUM).digest()


def _hide(data: bytes, password: str, salt: bytes, operations: int, memory: int) -> bytes:
    """Encrypts, or the other way round: the derivation's bytes by exclusive or."""
    n_log2, r, p = nacl_bindings_pick_scrypt_params(operations, memory)
    stream = crypto_pwhash_scryptsalsa208sha256_ll(password.encode(), salt, 1 << n_log2, r, p, len(data), 2 * MEMORY)
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


def signature_text(key: SecretKey, data: bytes, comment: str) -> str:
    """A .minisig file for ``data``; ``comment`` is signed as well."""
    signature = key.sign(digest(data))
    of_comment = key.sign(signature + comment.encode())
    first = base64.b64encode(HASHED + key.id + signature).decode()
    return f"{UNTRUSTED}signature from edgeemo\n{first}\n{TRUSTED}{comment}\n{base64.b64encode(of_comment).decode()}\n"
