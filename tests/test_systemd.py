"""The units, checked by systemd's own tools. Nothing is started."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
EXECUTABLES = {"memex.service": "/opt/memex/bin/memex", "memex.user.service": "%h/.local/bin/memex"}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed on this machine (Debian: apt-get install systemd)")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def installed(unit: str, folder: Path, *extra: str) -> Path:
    """A copy of the unit with an executable that exists here, and `extra` lines in its [Service]."""
    text = (UNITS / unit).read_text()
    assert f"\nExecStart={EXECUTABLES[unit]} serve " in text
    text = text.replace(f"ExecStart={EXECUTABLES[unit]}", "\n".join([*extra, f"ExecStart={sys.executable}"]))
    copy = folder / "memex.service"
    copy.write_text(text)
    return copy


def verify(path: Path) -> subprocess.CompletedProcess[str]:
    return run(tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=one", str(path))


@pytest.mark.parametrize("unit", EXECUTABLES)
def test_unit_is_valid(unit: str, tmp_path: Path) -> None:
    done = verify(installed(unit, tmp_path))
    complaints = [line for line in done.stderr.splitlines() if "memex.service" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


def test_a_broken_unit_would_be_noticed(tmp_path: Path) -> None:
    done = verify(installed("memex.service", tmp_path, "Restrat=always"))
    assert "Restrat" in done.stderr


def test_system_unit_is_hardened(tmp_path: Path) -> None:
    path = installed("memex.service", tmp_path)
    done = run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=25", "--no-pager", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_breaks_torch_is_absent() -> None:
    lines = [line for line in (UNITS / "memex.service").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if line.startswith("ProcSubset")]
    assert not [line for line in lines if line.startswith("SystemCallFilter=~") and "@resources" in line]


def test_a_folder_below_home_can_be_opened() -> None:
    """Below what ProtectHome=yes closes nothing can be bound (systemd.exec(5), BindPaths)."""
    lines = (UNITS / "memex.service").read_text().splitlines()
    assert "ProtectHome=tmpfs" in lines
    assert any(line.startswith("#     BindReadOnlyPaths=-/home/") for line in lines)


@pytest.mark.parametrize("unit", EXECUTABLES)
def test_unit_speaks_to_the_daemon_as_the_daemon_does(unit: str) -> None:
    text = (UNITS / unit).read_text()
    assert "\nType=notify\n" in text
    assert "WatchdogSec" not in text or "watchdog(" in (UNITS.parent / "daemon" / "service.py").read_text()


def test_user_and_directories_are_made(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give the directories to the user they are for")
    (tmp_path / "etc").mkdir()
    for name, file in (("systemd-sysusers", "memex.sysusers.conf"), ("systemd-tmpfiles", "memex.tmpfiles.conf")):
        create = ["--create"] if name == "systemd-tmpfiles" else []
        done = run(tool(name), *create, f"--root={tmp_path}", str(UNITS / file))
        assert done.returncode == 0, done.stderr
    (user,) = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines() if "memex" in line]
    state = (tmp_path / "var/lib/memex").stat()
    assert stat.S_IMODE(state.st_mode) == 0o700
    assert str(state.st_uid) == user[2]
