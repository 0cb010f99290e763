"""The daemon's side of sd_notify, against a socket of our own."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.notify import notify, ready, status, stopping, watchdog, watchdog_interval


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A socket that listens as systemd does, and the environment that names it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@memex-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        listening.settimeout(5)
        yield listening, {"NOTIFY_SOCKET": address}


def test_each_message_arrives(manager: tuple[socket.socket, dict[str, str]]) -> None:
    listening, environ = manager
    assert ready("watching 3 sources", environ=environ)
    assert listening.recv(4096) == b"READY=1\nSTATUS=watching 3 sources"
    assert status("12 documents left", environ=environ)
    assert listening.recv(4096) == b"STATUS=12 documents left"
    assert watchdog(environ=environ)
    assert listening.recv(4096) == b"WATCHDOG=1"
    assert stopping(environ=environ)
    assert listening.recv(4096) == b"STOPPING=1"
    assert notify(RELOADING=1, MONOTONIC_USEC=17, environ=environ)
    assert listening.recv(4096) == b"RELOADING=1\nMONOTONIC_USEC=17"


def test_a_line_break_in_a_text_starts_no_key(manager: tuple[socket.socket, dict[str, str]]) -> None:
    listening, environ = manager
    status("failed: a\nMAINPID=1\r\nb", environ=environ)
    assert b"\n" not in listening.recv(4096)


def test_a_name_that_is_not_utf8_can_be_said(manager: tuple[socket.socket, dict[str, str]]) -> None:
    listening, environ = manager
    assert status("reading a\udcff.md", environ=environ)
    assert listening.recv(4096) == b"STATUS=reading a?.md"


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1234", "/nowhere/notify", "/" + "x" * 200])
def test_without_a_listener_nothing_happens(address: str | None) -> None:
    assert not ready("up", environ={} if address is None else {"NOTIFY_SOCKET": address})


def test_a_manager_that_does_not_read_holds_nobody_up(manager: tuple[socket.socket, dict[str, str]]) -> None:
    _, environ = manager
    assert not all(status("x" * 1000, environ=environ) for _ in range(10_000))


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_interval(environ) == seconds
