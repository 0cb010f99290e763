"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# They need the language model: tests/test_cycle.py runs them.
LEARNING = ("memex ask", "memex refresh", "memex feedback")


def commands() -> list[str]:
    """The lines after a `$` in console blocks, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the README's configuration and notes."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "notes").mkdir()
    (folder / "backup").mkdir()
    (folder / "notes" / "office.md").write_text("# The office\n\nThe code of the front door is 4711.\n")
    (settings,) = re.findall(r"^```toml\n(state_dir.*?)^```", README, re.DOTALL | re.MULTILINE)
    (folder / "config.toml").write_text(settings)
    run(folder, "memex sync")
    return folder


def run(home: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MEMEX_EMBEDDING__MODEL": "hashing",
        "MEMEX_INGEST__MAX_DELETE_SHARE": "1.0",
    }
    command = command.replace("/mnt/backup", str(home / "backup")).replace("1 minute ago", "1 second ago")
    if "restore" in command:
        command = f"rm -rf ~/.local/state/memex; {command}"
    if command.startswith("memex rollback") and "--dry-run" not in command:
        command += " --yes"  # there is no terminal to ask on
    return subprocess.run(
        ["sh", "-c", command], cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_commands_of_the_readme_run(home: Path) -> None:
    said = [command for command in commands() if not command.startswith(LEARNING)]
    assert len(said) > 10
    failed = {}
    for command in said:
        done = run(home, command)
        if done.returncode:
            failed[command] = done.stderr
    assert failed == {}


def test_every_command_is_in_the_readme() -> None:
    listed = subprocess.run(
        [Path(sys.executable).with_name("memex"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^│ ([a-z]+) ", listed, re.MULTILINE)
    assert len(names) > 10
    assert [name for name in names if f"memex {name}" not in README] == []
