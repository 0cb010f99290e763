"""Sealing the tables' files: a sha256 of each is kept, so that a flipped bit can be found.

Lance writes a file once and never changes it; only its tags and its hint of the latest version, all JSON, are
rewritten.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from store.catalogue import seals
from store.catalogue.database import Database

CHANGING = ".json"


def seal(database: Database, folder: Path) -> int:
    """Keep the hash of each file that has none yet, and drop those of files that are gone; returns how many are new."""
    with database.read() as session:
        known = seals.all_seals(session)
    there = set(files(folder))
    fresh = {path: sha256 for path in sorted(there - known.keys()) if (sha256 := sha256_of(folder / path))}
    gone = known.keys() - there
    if fresh or gone:
        with database.write() as session:
            seals.drop(session, gone)
            seals.add(session, fresh)
    return len(fresh)


def broken(database: Database, folder: Path) -> Iterator[str]:
    """Read every sealed file and name those that are not what they were."""
    with database.read() as session:
        known = seals.all_seals(session)
    for path, sha256 in sorted(known.items()):
        found = sha256_of(folder / path)
        if found is not None and found != sha256:  # what is gone is for the tables' own checks to say
            yield path


def files(folder: Path) -> Iterator[str]:
    """The files below the folder that never change, relative to it."""
    for at, _, names in os.walk(folder):
        kept = (name for name in names if not name.endswith(CHANGING))
        yield from (os.path.relpath(os.path.join(at, name), folder) for name in kept)


def sha256_of(path: Path) -> str | None:
    """None when the file is gone: a maintenance removes files at any time."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
