"""Tell systemd how the daemon is (sd_notify). Without $NOTIFY_SOCKET nothing happens, so callers need not ask."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(*, environ: Mapping[str, str] = os.environ, **state: str | int) -> bool:
    """Send KEY=value lines, such as READY=1; true if they were handed over. A failure to send never raises."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    # One line a key: a line break in a text would start a key of its own.
    message = "\n".join(f"{key}={str(value).replace(chr(10), ' ')}" for key, value in state.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        # systemd that does not read must not hold up the daemon
        link.setblocking(False)
        try:
            link.sendto(message.encode("utf-8", "replace"), address)
        except OSError:
            return False
    return True


def ready(text: str, *, environ: Mapping[str, str] = os.environ) -> bool:
    """Started; `text` is what `systemctl status` shows."""
    return notify(READY=1, STATUS=text, environ=environ)


def status(text: str, *, environ: Mapping[str, str] = os.environ) -> bool:
    return notify(STATUS=text, environ=environ)


def stopping(*, environ: Mapping[str, str] = os.environ) -> bool:
    return notify(STOPPING=1, environ=environ)


def watchdog(*, environ: Mapping[str, str] = os.environ) -> bool:
    """Still alive; to be sent at least every `watchdog_interval` seconds."""
    return notify(WATCHDOG=1, environ=environ)


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between signs of life, half of what systemd allows; None: it does not ask this process for any."""
    microseconds, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if process and process != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000
