"""systemd's two small protocols: sd_notify(3), and sockets that it passes, sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket

FIRST = 3  # the first descriptor that is passed
WATCHDOG_S = 5.0  # between two signs of life; units ask for one every 30 s


def notify(state: str) -> bool:
    """Tells the service manager; False where there is none that listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        try:
            link.connect("\0" + address[1:] if address.startswith("@") else address)
            link.sendall(state.encode())
        except OSError:
            return False
    return True


def given_sockets() -> dict[str, list[socket.socket]]:
    """Sockets by the names of FileDescriptorName= in their units (websocket, audiosocket, http); empty where none is passed."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = os.environ.get("LISTEN_FDS", "")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for number in range(int(count) if count.isascii() and count.isdigit() else 0):
        one = socket.socket(fileno=FIRST + number)
        one.setblocking(False)
        os.set_inheritable(one.fileno(), False)
        found.setdefault(names[number] if number < len(names) else "", []).append(one)
    return found
