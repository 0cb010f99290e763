"""A process that does actions on copies of a memory, each in a fork of its own, and ends them as it is told.

All is imported once, and a fork before LanceDB has done anything is as good as a new process: 10 ms instead of 3 s.
Requests and answers are pickles on stdin and stdout.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tests.faults.actions import ACTIONS, open_memory
from tests.faults.disk import FAIL_FROM, FAIL_ONCE, Disk
from tests.faults.picture import Picture, picture
from tests.faults.steps import Steps

USE = "use"
FAULTS = (FAIL_ONCE, FAIL_FROM)
ROOT = Path(__file__).parent.parent.parent
SECONDS = 60  # a fork that hangs is ended, and the test fails


@dataclass(frozen=True)
class Request:
    """An action, the opening alone (None), or USE, on a state directory; and where it is cut off.

    `step` counts calls of the store, `call` system calls; 0 only counts.
    """

    state: Path
    action: str | None
    step: int = 0
    when: str = "before"
    call: int | None = None
    what: int = 0
    value: int = 0


@dataclass
class Answer:
    """How it went. Of a fork that was killed only what it had said by then."""

    taken: list[str] = field(default_factory=list)  # the steps, or the system calls
    acknowledged: bool = False
    error: str | None = None
    error_kind: str | None = None
    found: Picture | None = None  # after an error, in the same process
    repeated: Picture | None = None  # after doing it again then
    killed: bool = False


class Driver:
    """The test's end of it."""

    def __init__(self, library: Path | None) -> None:
        environment = {**os.environ, **({"LD_PRELOAD": str(library)} if library else {})}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import {__name__} as driver; driver.main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def run(self, request: Request) -> Answer:
        pickle.dump(request, self._requests)
        self._requests.flush()
        answer: Answer = pickle.load(self._answers)
        return answer

    def close(self) -> None:
        self._requests.close()
        self._process.wait(timeout=SECONDS)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    steps, disk = Steps(), Disk()
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            signal.alarm(SECONDS)
            os.close(reader)
            with open(writer, "wb", buffering=0) as said:
                _do(request, steps, disk, said)
            os.kill(os.getpid(), signal.SIGKILL)  # whatever it would have done on its way out
        os.close(writer)
        answer = Answer()
        with open(reader, "rb") as said:
            try:
                while True:
                    vars(answer).update(pickle.load(said))
            except (EOFError, pickle.UnpicklingError):
                pass
        answer.killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        pickle.dump(answer, answers)
        answers.flush()


def _do(request: Request, steps: Steps, disk: Disk, said: BinaryIO) -> None:
    def arm() -> None:
        if request.call is None:
            steps.arm(request.step, request.when)
        else:
            disk.arm(request.state, request.call, request.what, request.value)

    def disarm() -> None:
        steps.disarm()
        taken = steps.taken if request.call is None else disk.disarm()
        pickle.dump({"taken": taken}, said)

    if request.action == USE:
        try:
            use(request.state)
        except Exception as error:  # noqa: BLE001 - the test judges it
            pickle.dump({"error": str(error), "error_kind": type(error).__name__}, said)
        return
    if request.action is None:
        arm()
        open_memory(request.state, month=2)
        disarm()
        pickle.dump({"acknowledged": True}, said)
        return
    action = ACTIONS[request.action]
    memory = open_memory(request.state, month=2)
    ready = action.ready(memory)
    before = picture(memory) if request.what in FAULTS else None
    arm()
    try:
        action.act(memory, ready)
        pickle.dump({"acknowledged": True}, said)
        disarm()
        return
    except BaseException as error:  # noqa: BLE001 - also what Rust raises when it panics
        disarm()
        pickle.dump({"error": str(error), "error_kind": type(error).__name__}, said)
    found = picture(memory)
    pickle.dump({"found": found}, said)
    if before is not None and found.same_but_safety(before):
        action.act(memory, ready)
    pickle.dump({"repeated": picture(memory)}, said)


def use(state: Path) -> None:
    """Start, read everything, write, roll back."""
    with open_memory(state, month=2) as memory:
        picture(memory)
        memory.search("kept paragraph", 3)
        for action in (ACTIONS["commit"], ACTIONS["rollback"]):
            action.act(memory, action.ready(memory))
        picture(memory)


def main() -> None:
    warnings.filterwarnings("ignore", message="lancedb fork support is experimental")
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what anything prints must not end up between the answers
        serve(sys.stdin.buffer, out)
