"""The disk as seen through `disk.c`: built with the C compiler that is there, preloaded into a child process."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")

KILL, KILL_TORN, CUT, FAIL_ONCE, FAIL_FROM = range(1, 6)  # as in disk.c


def build(folder: Path) -> Path | None:
    """The library, None where there is no C compiler."""
    if COMPILER is None:
        return None
    library = folder / "disk.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O2", "-Wall", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Disk:
    """The preloaded library in this process; without it nothing can be armed."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self.there = hasattr(self._library, "disk_arm")
        if self.there:
            self._library.disk_calls.restype = ctypes.c_char_p

    def arm(self, folder: Path, number: int, what: int, value: int = 0) -> None:
        """Count system calls below `folder`; at call `number` do `what`: `value` is an errno or how power is cut."""
        self._library.disk_arm(str(folder).encode(), number, what, value)

    def disarm(self) -> list[str]:
        """Let the disk be well again; the calls there were."""
        self._library.disk_disarm()
        calls: bytes = self._library.disk_calls()
        return calls.decode().splitlines()
