"""Whose artifacts may run: signatures in minisign's format, and files that nobody else may write.

An artifact is a program, so this comes before everything else that is done with one. A signature (Ed25519 over BLAKE2b-512 of the
archive, https://jedisct1.github.io/minisign/) lies next to the archive as FILE.minisig, and in an installed model's folder;
Debian's minisign verifies it, and what that signs is verified here. Checked are the very bytes in memory that are then loaded.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeemo_runtime.errors import EdgeEmoError, printable

if TYPE_CHECKING:
    from edgeemo_runtime.members import Members

UNTRUSTED, TRUSTED = "untrusted comment: ", "trusted comment: "
KEY_ALGORITHM = b"Ed"
HASHED, WHOLE = b"ED", b"Ed"  # signatures over a hash of the file (minisign's default), and over all its bytes
MAX_KEY_BYTES = 4096


@dataclass(frozen=True)
class PublicKey:
    id: bytes  # 8 bytes
    key: bytes  # 32 bytes, Ed25519

    @property
    def name(self) -> str:
        """As minisign writes it."""
        return self.id[::-1].hex().upper()


@dataclass(frozen=True)
class Signature:
    algorithm: bytes
    key_id: bytes
    signature: bytes  # of the archive, or of its hash
    comment: str  # trusted: the second signature is of it
    comment_signature: bytes

    @property
    def sequence(self) -> int:
        """Sequence number of a signed artifact: the comment's ``sequence:``, else minisign's own ``timestamp:``; 0 without
        either."""
        found = re.search(r"\bsequence:(\d{1,18})\b", self.comment) or re.search(r"\btimestamp:(\d{1,18})\b", self.comment)
        return int(found[1]) if found else 0


def parse_public_key(text: str, name: str) -> PublicKey:
    """A minisign public key: its file's text, or the line with the key alone. Raises EdgeEmoError naming ``name``."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(UNTRUSTED.strip())]
    data = _base64(lines[0] if len(lines) == 1 else "", 42)
    if data is None or data[:2] != KEY_ALGORITHM:
        raise EdgeEmoError(f"{name}: is no minisign public key; `edgeemo keygen` and `minisign -G` write one (.pub)")
    return PublicKey(data[2:10], data[10:])


def load_public_key(key: str) -> PublicKey:
    """A key by its file's name, or the key itself. Raises EdgeEmoError."""
    if _base64(key, 42) is not None:
        return parse_public_key(key, "the key")
    try:
        with open(key, "rb") as file:
            text = file.read(MAX_KEY_BYTES).decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise EdgeEmoError(f"{printable(key)}: no key can be read there ({reason}); --trust takes a .pub file") from error
    return parse_public_key(text, printable(key))


def parse_signature(data: bytes, name: str) -> Signature:
    """The four lines of a .minisig file. Raises EdgeEmoError naming ``name``."""
    try:
        lines = data.decode().splitlines()
        signed, of_comment = _base64(lines[1], 74), _base64(lines[3], 64)
        good = lines[0].startswith(UNTRUSTED) and lines[2].startswith(TRUSTED)
    except (UnicodeDecodeError, IndexError):
        signed = of_comment = None
        good = False
    if signed is None or of_comment is None or not good or signed[:2] not in (HASHED, WHOLE):
        raise EdgeEmoError(f"{name}: is no minisign signature; sign the artifact again")
    return Signature(signed[:2], signed[2:10], signed[10:], lines[2][len(TRUSTED) :], of_comment)


def _base64(text: str, size: int) -> bytes | None:
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) == size else None


@dataclass(frozen=True)
class Trust:
    """``keys``: where there are any, an artifact must be signed by one of them. Without, nobody but root and this user may be
    able to write it, unless ``allow_writable``."""

    keys: tuple[PublicKey, ...] = ()
    allow_writable: bool = False

    def check(self, members: Members) -> None:
        """Raises EdgeEmoError for what may not run."""
        if self.keys:
            verify(members, self.keys)
        elif members.exposed is not None and not self.allow_writable:
            raise EdgeEmoError(
                f"{members.exposed}: others may write it, and an artifact is a program; chmod go-w and chown it, or ask for a "
                "signature with --trust, or take it all the same with --allow-writable"
            )


ANYONE = Trust()


def load_trust(keys: Iterable[str], allow_writable: bool = False) -> Trust:
    return Trust(tuple(load_public_key(key) for key in keys), allow_writable)


def verify(members: Members, keys: tuple[PublicKey, ...]) -> Signature:
    """The artifact's signature, by one of ``keys``. Raises EdgeEmoError if there is none, or it is not of these bytes."""
    path = members.path
    if members.signature is None:
        raise EdgeEmoError(f"{path}: is not signed, and a signature is asked for; `edgeemo sign` writes one")
    signature = parse_signature(members.signature, f"the signature of {path}")
    key = next((k for k in keys if k.id == signature.key_id), None)
    if key is None:
        trusted, signer = ", ".join(k.name for k in keys), PublicKey(signature.key_id, b"").name
        raise EdgeEmoError(f"{path}: is signed with key {signer}, which is not trusted here; trusted: {trusted}")
    archive = members.archive()
    if not signed_by(key, signature.signature, digest(archive) if signature.algorithm == HASHED else archive):
        raise EdgeEmoError(f"{path}: its signature is not of these bytes; copy artifact and .minisig again")
    if not signed_by(key, signature.comment_signature, signature.signature + signature.comment.encode()):
        raise EdgeEmoError(f"{path}: the comment in its signature was changed; copy the .minisig again")
    return signature


def digest(data: bytes) -> bytes:
    """The bytes that minisign signs for a file."""
    import hashlib

    return hashlib.blake2b(data).digest()


def signed_by(key: PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        from nacl.exceptions import BadSignatureError
        from nacl.signing import VerifyKey
    except ImportError as error:
        raise EdgeEmoError("signatures need PyNaCl: pip install 'edgeemo-runtime[trust]'") from error
    try:
        VerifyKey(key.key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def folder_signature(folder: Path) -> Signature | None:
    """The signature that an installed model came with, not verified; None where there is none."""
    from edgeemo_runtime.members import FOLDER_SIGNATURE

    try:
        return parse_signature((folder / FOLDER_SIGNATURE).read_bytes(), str(folder))
    except (OSError, EdgeEmoError):
        return None
