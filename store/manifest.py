"""What a backup is: a manifest, and one object for each content that it lists.

DIR/
  memex-backup.json     path -> size and sha256 of every file; a folder without it is no backup
  objects/ab/ab3f…      contents, named by their sha256
  backup.lock           held by the one process that writes here

A backup comes from outside: nothing in it is trusted, no link is followed, no name in it becomes a path unchecked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from store.catalogue.database import CATALOGUE
from store.durable import write_text
from store.errors import Corrupt, NotFound
from store.summary import HEAD

FORMAT = 1
MANIFEST = "memex-backup.json"
OBJECTS = "objects"
LOCK = "backup.lock"
PART = ".part"  # the end of a name whose content is not whole yet
FOLDERS = ("generations", "adapters")  # what a backup has besides the catalogue

BLOCK = 1 << 20  # bytes
SHA256 = re.compile(r"[0-9a-f]{64}")
REMEDY = "use another copy of the backup or, if the memory still serves, remove it and run `memex backup` again"
NAME_IT = "name the folder that was given to `memex backup`"

OnProgress = Callable[[int, int], None]  # files done, files in all


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its content, and the time that it had in the state directory."""

    size: int  # bytes
    sha256: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of a memory. `files`: path below the state directory -> entry."""

    created_at: str  # ISO 8601, UTC
    memory: str  # the name that tells one memory from another
    schema: int  # of the catalogue
    head: Mapping[str, Any]  # generation, version, adapter, query_adapter
    files: Mapping[str, Entry]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files.values())


def write(folder: Path, manifest: Manifest) -> None:
    """Make `manifest` what the backup is, in one step that survives a power cut."""
    body = {"format": FORMAT, **asdict(manifest)}
    write_text(folder / MANIFEST, json.dumps({**body, "sha256": _checksum(body)}, indent=1) + "\n")


def read(folder: Path) -> Manifest:
    """Raises NotFound when there is no backup, and Corrupt for one that is damaged, foreign or of a newer memex."""
    file = folder / MANIFEST
    try:
        with open_plain(file) as opened:
            body = json.loads(opened.read())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"no backup in {folder}: it has no {MANIFEST}; name the folder given to `memex backup`"
        ) from None
    except (ValueError, RecursionError):
        raise Corrupt(f"{file} is not JSON; {REMEDY}") from None
    if not isinstance(body, dict) or not isinstance(body.get("format"), int):
        raise Corrupt(f"{file} is not the manifest of a memex backup; {NAME_IT}")
    if body["format"] != FORMAT:
        raise Corrupt(f"{file} has format {body['format']}, this memex reads {FORMAT}; use the memex that wrote it")
    if body.pop("sha256", None) != _checksum(body):
        raise Corrupt(f"{file} is damaged: it does not match its own sha256; {REMEDY}")
    try:
        manifest = _parsed(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"{file} is not the manifest of a memex backup ({error!r}); {REMEDY}") from None
    for path in manifest.files:
        if not fits(path) or any(str(parent) in manifest.files for parent in PurePosixPath(path).parents):
            raise Corrupt(f"{file} lists {path!r}, which is no file of a memory; {REMEDY}")
    if CATALOGUE not in manifest.files:
        raise Corrupt(f"{file} lists no {CATALOGUE}; {REMEDY}")
    return manifest


def fits(path: str) -> bool:
    """Whether `path` is a place below the state directory that a backup may fill."""
    parts = path.split("/")
    ours = path == CATALOGUE or (parts[0] in FOLDERS and len(parts) > 1)
    return ours and path.isprintable() and not any(part in ("", ".", "..") for part in parts)


def objects(folder: Path) -> dict[str, int]:
    """sha256 -> size of every object in the backup, listed or not. Raises Corrupt when anything else is there."""
    found: dict[str, int] = {}
    for entry in _entries(folder):
        own = entry.name in (MANIFEST, LOCK, f".{MANIFEST}.tmp") and entry.is_file(follow_symlinks=False)
        if not own and not (entry.name == OBJECTS and entry.is_dir(follow_symlinks=False)):
            raise _no_part(entry)
    for shard in _entries(folder / OBJECTS):
        if shard.is_file(follow_symlinks=False) and shard.name.endswith(PART):
            continue
        if len(shard.name) != 2 or not shard.is_dir(follow_symlinks=False):
            raise _no_part(shard)
        for entry in _entries(Path(shard.path)):
            whole = SHA256.fullmatch(entry.name) and entry.name.startswith(shard.name)
            if not entry.is_file(follow_symlinks=False) or not (whole or entry.name.endswith(PART)):
                raise _no_part(entry)
            if whole:
                found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return found


def object_file(folder: Path, sha256: str) -> Path:
    return folder / OBJECTS / sha256[:2] / sha256


def verify(folder: Path, on_progress: OnProgress = lambda done, total: None) -> Manifest:
    """Read and compare everything that the backup lists. Raises NotFound, and Corrupt naming the first bad file."""
    manifest = read(folder)
    found = objects(folder)
    sizes = {entry.sha256: entry.size for entry in manifest.files.values()}
    for done, (sha256, size) in enumerate(sizes.items()):
        on_progress(done, len(sizes))
        file = object_file(folder, sha256)
        if sha256 not in found:
            raise Corrupt(f"{file} is missing; {REMEDY}")
        if found[sha256] != size:
            raise Corrupt(f"{file} has {found[sha256]} bytes and should have {size}; {REMEDY}")
        with open_plain(file) as opened:
            if hash_of(blocks(opened)) != sha256:
                raise Corrupt(f"{file} is damaged: its sha256 is not its name; {REMEDY}")
    on_progress(len(sizes), len(sizes))
    return manifest


def open_plain(file: Path) -> BinaryIO:
    """Open a regular file for reading. Raises Corrupt when it is a link or no file."""
    if not stat.S_ISREG(os.lstat(file).st_mode):
        raise Corrupt(f"{file} is a link or no regular file; {REMEDY}")
    return open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK))


def blocks(opened: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: opened.read(BLOCK), b"")


def hash_of(some: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in some:
        digest.update(block)
    return digest.hexdigest()


def _parsed(body: dict[str, Any]) -> Manifest:
    files = {str(path): Entry(**entry) for path, entry in body["files"].items()}
    for path, entry in files.items():
        numbers = type(entry.size) is int and type(entry.mtime_ns) is int and entry.size >= 0
        if not numbers or not SHA256.fullmatch(entry.sha256):
            raise ValueError(path)
    head = {key: body["head"][key] for key in HEAD}
    return Manifest(str(body["created_at"]), str(body["memory"]), int(body["schema"]), head, files)


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _no_part(entry: os.DirEntry[str]) -> Corrupt:
    return Corrupt(f"{entry.path} is no part of a memex backup; move it away, or use another folder")
