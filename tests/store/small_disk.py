"""Backup and restore on a disk that is too small, or that may not be written. Needs to mount: `unshare -rm`.

    python -m tests.store.small_disk STATE BACKUP SMALL    SMALL: an empty folder, to mount the small disk at

Prints what was said each time, as a JSON list.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import store.restore
from store import manifest
from store.errors import MemexError
from tests.store.killed import backed_up

SIZE = 2_000_000  # bytes; more than the memory without `big`


def mount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)


def said(action: Callable[[Path, Path], object], source: Path, target: Path) -> str:
    try:
        action(source, target)
    except MemexError as error:
        return str(error)
    return ""


def main() -> None:
    state, backup, small = map(Path, sys.argv[1:])
    mount(f"size={SIZE}", small)
    target = small / "backup"
    found = [said(backed_up, state, target)]
    before = manifest.verify(target)

    big = state / "adapters" / "0002" / "adapter_model.safetensors"
    big.parent.mkdir(parents=True)
    big.write_bytes(os.urandom(2 * SIZE))
    found.append(said(backed_up, state, target))
    assert manifest.verify(target) == before

    mount(f"remount,ro,size={SIZE}", small)
    found.append(said(backed_up, state, target))
    assert manifest.verify(target) == before
    mount(f"remount,rw,size={SIZE}", small)
    shutil.rmtree(target)

    backed_up(state, backup)
    found.append(said(store.restore.restore, backup, small / "state"))
    assert not (small / "state").exists()
    store.restore._refuse_if_full = lambda *_: None  # as if another program takes the room after it was looked at
    found.append(said(store.restore.restore, backup, small / "state"))
    assert set(os.listdir(small / "state")) <= {"writer.lock"}
    big.unlink()
    backed_up(state, backup)
    found.append(said(store.restore.restore, backup, small / "state"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
