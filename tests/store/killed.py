"""A process that is killed at each step of a backup and of a restore, and looks at what it left.

    python -m tests.store.killed backup FIRST STRIDE STATE BACKUP FOLDER     BACKUP: of an older state of STATE
    python -m tests.store.killed restore FIRST STRIDE - BACKUP FOLDER

A step is a file opened, renamed, removed or made below FOLDER, or a block read. Step FIRST and each STRIDE steps after
it have a child that kills itself just before it. Prints one JSON object a kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from store import manifest
from store.backup import back_up
from store.catalogue.database import CATALOGUE, Database
from store.errors import Corrupt
from store.restore import restore

STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "sqlite3.connect", "block"}
BLOCK = 20_000  # bytes; small, so that kills come in the middle of files


def child(action: Callable[[], object], folder: Path, last: int) -> bool:
    """Run `action` in a child that dies before step `last`; whether it died."""
    pid = os.fork()
    if pid == 0:
        steps = 0

        def on_event(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal steps
            if event in STEPS and (event == "block" or str(folder) in str(arguments[0])):
                steps += 1
                if steps == last:
                    os.kill(os.getpid(), signal.SIGKILL)

        def blocks(opened: BinaryIO) -> Iterator[bytes]:
            while block := opened.read(BLOCK):
                sys.audit("block")
                yield block

        manifest.blocks = blocks
        sys.addaudithook(on_event)
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - the parent must see that it ended, and how
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("the child failed")
    return os.WIFSIGNALED(status)


def backed_up(state: Path, folder: Path) -> None:
    database = Database(state / CATALOGUE, create=False)
    back_up(
        state,
        database,
        threading.Lock(),
        folder,
        clock=lambda: datetime.now(UTC),
        on_progress=lambda done, total: None,
        stop=threading.Event(),
    )
    database.close()


def files(folder: Path) -> dict[str, str]:
    return {path: entry.sha256 for path, entry in manifest.verify(folder).files.items()}


def leftovers(folder: Path) -> int:
    listed = {entry.sha256 for entry in manifest.read(folder).files.values()}
    return sum(name not in listed for _, _, names in os.walk(folder / manifest.OBJECTS) for name in names)


def killed_backup(state: Path, backup: Path, folder: Path, step: int) -> dict[str, Any] | None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(backup, folder)
    before = files(backup)
    if not child(lambda: backed_up(state, folder), folder, step):
        return None
    found = {"old": files(folder) == before, "garbage": leftovers(folder)}
    child(lambda: backed_up(state, folder), folder, 0)
    return {**found, "after": files(folder), "garbage_after": leftovers(folder)}


def killed_restore(backup: Path, folder: Path, step: int) -> dict[str, Any] | None:
    shutil.rmtree(folder, ignore_errors=True)
    if not child(lambda: restore(backup, folder), folder, step):
        return None
    whole = (folder / CATALOGUE).exists()
    mistaken = False
    if not whole and any((folder / name).exists() for name in manifest.FOLDERS):
        try:
            Database(folder / CATALOGUE, create=True)
            mistaken = True
        except Corrupt as error:
            mistaken = "memex restore" not in str(error)
    if not whole:
        child(lambda: restore(backup, folder), folder, 0)
    after = {
        str(file.relative_to(folder)): manifest.hash_of(iter([file.read_bytes()]))
        for file in folder.rglob("*")
        if file.is_file() and file.name != "writer.lock"
    }
    return {"whole": whole, "mistaken": mistaken, "same": after == files(backup)}


def main() -> None:
    action, first, stride, *given = sys.argv[1:]
    state, backup, folder = map(Path, given)
    step = int(first)
    while (
        found := killed_backup(state, backup, folder, step)
        if action == "backup"
        else killed_restore(backup, folder, step)
    ) is not None:
        print(json.dumps(found))
        step += int(stride)


if __name__ == "__main__":
    main()
