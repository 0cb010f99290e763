"""The parent's side of a training run: start the child, watch it, end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from store.errors import TrainingFailed
from trainers import cycle

LOG = "child.log"
POLL_SECONDS = 0.5
GRACE_SECONDS = 5.0


def run_child(
    run_dir: Path,
    nice: int = 10,
    memory_mb: int | None = None,
    on_progress: Callable[[Mapping[str, Any]], None] | None = None,
    stop: threading.Event | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Run RUN_DIR's job in a child process at lower priority and return its evidence.

    `memory_mb` caps the child's data segment (Linux). `on_progress` gets each new state of progress.json. Raises
    TrainingFailed when the child fails (with the end of its log), `timeout` seconds pass, or `stop` is set;
    the child is gone by then, SIGTERM first. It also dies with this process and thread (Linux), so call
    this from a thread that lives as long as the run.
    """
    log = run_dir / LOG
    (run_dir / cycle.EVIDENCE).unlink(missing_ok=True)
    # The trainers of this installation, whatever the working directory; nothing else of the path is changed.
    package_root = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([package_root, *([inherited] if inherited else [])]),
        # OpenMP threads that spin at barriers while another process has the core made training four times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    command = [sys.executable, "-m", "trainers.cycle", str(run_dir), f"--nice={nice}", f"--parent={os.getpid()}"]
    if memory_mb is not None:
        command.append(f"--memory-mb={memory_mb}")
    with log.open("wb") as opened:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        _watch(child, run_dir, on_progress or (lambda state: None), stop, timeout)
    finally:
        _end(child)
    evidence = _read(run_dir / cycle.EVIDENCE)
    if child.returncode != 0 or evidence is None:
        raise TrainingFailed(f"the training process ended with {_ending(child.returncode)}; {log} ends: {_tail(log)}")
    return evidence


def _watch(
    child: subprocess.Popen[bytes],
    run_dir: Path,
    on_progress: Callable[[Mapping[str, Any]], None],
    stop: threading.Event | None,
    timeout: float | None,
) -> None:
    started = time.monotonic()
    seen: dict[str, Any] | None = None
    while True:
        ended = child.poll() is not None
        state = _read(run_dir / cycle.PROGRESS)
        if state is not None and state != seen:
            on_progress(state)
            seen = state
        if ended:
            return
        if stop is not None and stop.is_set():
            raise TrainingFailed("the refresh was stopped; nothing changed, run `memex refresh` to try again")
        if timeout is not None and time.monotonic() - started > timeout:
            raise TrainingFailed(
                f"the training process was not done after {timeout:.0f} s; raise refresh.minutes or lower max_steps"
            )
        try:
            child.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return value


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tail(log: Path, lines: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(empty)"
