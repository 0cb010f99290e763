"""The process that files are parsed in: what a bad file does there costs only that file.

parent                                     child (python -m daemon.parse)
name, content   ── one stream socket ──>   parse_bytes, within limits of memory and file access
text or reason  <─────────────────────     as JSON: a child that a file took over cannot make the parent run code
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from daemon.parsers import Parsed, parse_bytes
from daemon.reading import ChangedWhileRead, read_file
from store.errors import ParseError
from store.types import Section

__all__ = ["ChangedWhileRead", "Parsed", "ParserProcess", "StillParsing", "read_file"]

_REQUEST = struct.Struct("!IQ")  # the length of the name, of the content
_ANSWER = struct.Struct("!Q")
_PR_SET_PDEATHSIG = 1
LOOK_SECONDS = 0.25  # how long an answer is awaited without a look at who else waits
KEPT_SECONDS = 60.0  # that an answer waits for whoever asks, past the time that its file had
ASIDE = 2  # files that may be parsed aside at once; each may take the memory that a parser may take


class StillParsing(Exception):
    """The file takes long and something else should come first; its parser goes on meanwhile."""


class ParserProcess:
    """Parses files in child processes, which are started when needed and again after a file broke one."""

    def __init__(self, memory_mb: int = 1024, seconds: float = 60.0) -> None:
        self._memory_mb = memory_mb
        self._seconds = seconds
        self._idle: _Child | None = None
        self._late: dict[tuple[str, bytes], _Child] = {}  # what is parsed aside, by name and content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def parse(self, data: bytes, name: str, pressed: Callable[[], bool] = lambda: False) -> Parsed:
        """What `parse_bytes` gives, or ParseError with the reason: also when the file hangs or kills its parser.

        A file that takes long while `pressed` says that something else should come first is put aside: StillParsing is
        raised, and the same file asked for again takes up what was done by then. A few can be aside at once.
        """
        key = (name, hashlib.blake2b(data, digest_size=16).digest())
        child = self._late.pop(key, None) or self._asked(data, name)
        self.let_go()
        try:
            while not child.answers_within(LOOK_SECONDS):
                if pressed() and len(self._late) < ASIDE:
                    self._late[key] = child
                    raise StillParsing
            answer = child.answer()
        except StillParsing:
            raise
        except TimeoutError:
            child.close()
            raise ParseError(f"took longer than {self._seconds:g} s to parse") from None
        except (ConnectionError, EOFError):
            how = child.ended()
            raise ParseError(f"the parser ended ({how}); the file may need more than {self._memory_mb} MB") from None
        except BaseException:
            child.close()  # an answer that was not awaited must not become the next file's
            raise
        if answer.get("last") or self._idle is not None:
            child.close()
        else:
            self._idle = child
        if "error" in answer:
            raise ParseError(answer["error"])
        sections = tuple(Section(text, tuple(headings), page) for text, headings, page in answer["sections"])
        return Parsed(answer["title"], sections, answer["metadata"])

    def close(self) -> None:
        for child in (self._idle, *self._late.values()):
            if child is not None:
                child.close()
        self._idle = None
        self._late.clear()

    def let_go(self) -> None:
        """End what is aside past its time: it hangs, or nobody asks for it again, as its file is another or gone."""
        for key in [key for key, child in self._late.items() if child.is_late]:
            self._late.pop(key).close()

    def _asked(self, data: bytes, name: str) -> _Child:
        """A child that parses the file by now."""
        child, self._idle = self._idle, None
        if child is None or not child.lives:
            if child is not None:
                child.close()
            child = _Child(self._memory_mb)
        try:
            child.ask(data, name.encode("utf-8", "surrogateescape"), self._seconds)
        except (OSError, EOFError):  # it ended; what there is to say of that is said when it is awaited
            pass
        except BaseException:
            child.close()
            raise
        return child


class _Child:
    """A process that parses, and the socket to it."""

    def __init__(self, memory_mb: int) -> None:
        self._until = 0.0
        self._socket, theirs = socket.socketpair()
        house = str(Path(__file__).resolve().parent.parent)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "daemon.parse", str(memory_mb), str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # nothing of our environment: it may hold keys, and the child needs none of it
                env={"PYTHONPATH": house, "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the parent
            )

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def is_late(self) -> bool:
        """Whether its time is over without an answer, or the answer has waited for long."""
        ready = select.select([self._socket], [], [], 0)[0]
        return time.monotonic() >= self._until + (KEPT_SECONDS if ready else 0)

    def ask(self, data: bytes, name: bytes, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._socket.settimeout(seconds)
        self._socket.sendall(_REQUEST.pack(len(name), len(data)) + name)
        self._socket.sendall(data)

    def answers_within(self, seconds: float) -> bool:
        """Whether there is an answer, or its end, to read. Raises TimeoutError if there is none and it is too late."""
        left = self._until - time.monotonic()
        if select.select([self._socket], [], [], max(0.0, min(seconds, left)))[0]:
            return True
        if left <= seconds:
            raise TimeoutError
        return False

    def answer(self) -> dict[str, Any]:
        """What it sent. Raises TimeoutError, ConnectionError and EOFError."""
        until = max(self._until, time.monotonic() + LOOK_SECONDS)  # it may have been ready long before it is read
        (length,) = _ANSWER.unpack(_received(self._socket, _ANSWER.size, until))
        answer: dict[str, Any] = json.loads(_received(self._socket, length, until))
        return answer

    def ended(self) -> str:
        """How the process ended, in words."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        return signal.Signals(-code).name if code < 0 else f"exit {code}"

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _received(link: socket.socket, length: int, deadline: float | None = None) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        if deadline is not None:
            link.settimeout(max(deadline - time.monotonic(), 0.001))
        got = link.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return data


def _serve(link: socket.socket, memory_mb: int) -> None:
    """Answer until the parent goes away."""
    while True:
        try:
            name_length, length = _REQUEST.unpack(_received(link, _REQUEST.size))
            name = bytes(_received(link, name_length)).decode("utf-8", "surrogateescape")
            answer = _answer(bytes(_received(link, length)), name, memory_mb)
        except (EOFError, ConnectionError):
            return
        link.sendall(_ANSWER.pack(len(answer)) + answer)


def _answer(data: bytes, name: str, memory_mb: int) -> bytes:
    try:
        parsed = parse_bytes(data, name)
        sections = [(section.text, section.headings, section.page) for section in parsed.sections]
        answer: dict[str, Any] = {"title": parsed.title, "sections": sections, "metadata": dict(parsed.metadata)}
        return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
    except ParseError as error:
        answer = {"error": str(error), "last": False}
    except MemoryError:
        answer = {"error": f"needs more than {memory_mb} MB of memory to parse", "last": True}
    return json.dumps(answer).encode()


def _confine(memory_mb: int, parent: int) -> None:
    """Limits that the child cannot lift, and an end when the parent ends."""
    import resource

    for limit, value in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if sys.platform == "linux":
        # a child that hangs in a file does not notice that its socket closed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit()


def main() -> None:
    memory_mb, parent = int(sys.argv[1]), int(sys.argv[2])
    link = socket.socket(fileno=os.dup(0))
    _confine(memory_mb, parent)
    gc.freeze()
    _serve(link, memory_mb)


if __name__ == "__main__":
    main()
