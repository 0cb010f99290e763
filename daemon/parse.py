"""The process that files are parsed in: what a bad file does there costs only that file.

parent                                     child (python -m daemon.parse)
name, content   ── one stream socket ──>   parse_bytes, within limits of memory and file access
text or reason  <─────────────────────     as JSON: a child that a file took over cannot make the parent run code
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from daemon.parsers import Parsed, parse_bytes
from daemon.reading import ChangedWhileRead, read_file
from store.errors import ParseError
from store.types import Section

__all__ = ["ChangedWhileRead", "Parsed", "ParserProcess", "read_file"]

_REQUEST = struct.Struct("!IQ")  # the length of the name, of the content
_ANSWER = struct.Struct("!Q")
_PR_SET_PDEATHSIG = 1


class ParserProcess:
    """Parses one file at a time in a child process, which is started when needed and again after a file broke it."""

    def __init__(self, memory_mb: int = 1024, seconds: float = 60.0) -> None:
        self._memory_mb = memory_mb
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def parse(self, data: bytes, name: str) -> Parsed:
        """What `parse_bytes` gives, or ParseError with the reason: also when the file hangs or kills its parser."""
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()
        assert self._socket is not None
        try:
            answer = self._ask(self._socket, data, name.encode("utf-8", "surrogateescape"))
        except TimeoutError:
            self.close()
            raise ParseError(f"took longer than {self._seconds:g} s to parse") from None
        except (ConnectionError, EOFError):
            code = self._ended()
            raise ParseError(f"the parser ended ({code}); the file may need more than {self._memory_mb} MB") from None
        except BaseException:
            self.close()  # an answer that was not awaited must not become the next file's
            raise
        if "error" in answer:
            if answer["last"]:
                self.close()
            raise ParseError(answer["error"])
        sections = tuple(Section(text, tuple(headings), page) for text, headings, page in answer["sections"])
        return Parsed(answer["title"], sections, answer["metadata"])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _ended(self) -> str:
        """How the child ended, in words."""
        assert self._child is not None
        try:
            code = self._child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        return signal.Signals(-code).name if code < 0 else f"exit {code}"

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        house = str(Path(__file__).resolve().parent.parent)
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "daemon.parse", str(self._memory_mb), str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # nothing of our environment: it may hold keys, and the child needs none of it
                env={"PYTHONPATH": house, "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the parent
            )
        self._socket = ours

    def _ask(self, link: socket.socket, data: bytes, name: bytes) -> dict[str, Any]:
        deadline = time.monotonic() + self._seconds
        link.settimeout(self._seconds)
        link.sendall(_REQUEST.pack(len(name), len(data)) + name)
        link.sendall(data)
        (length,) = _ANSWER.unpack(_received(link, _ANSWER.size, deadline))
        answer: dict[str, Any] = json.loads(_received(link, length, deadline))
        return answer


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
