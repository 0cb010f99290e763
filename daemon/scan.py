"""What differs between a source's folder and the catalogue."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from pathspec import GitIgnoreSpec

from daemon.settings import Source
from store.types import LONGEST_PAUSE, Known, Labels, Place, Stat

# Never documents: version control's own files, dependencies, caches, and what editors leave while they save.
ALWAYS_EXCLUDED = (
    *(".git/", ".hg/", ".svn/", "node_modules/", "__pycache__/", ".venv/", ".tox/", ".mypy_cache/", ".DS_Store"),
    ".memexignore",
    *("*~", ".*.sw[a-p]", ".#*", "#*#", "*.part", "*.crdownload", "4913", ".~lock.*"),
)
IGNORE_FILE = b".memexignore"
MOST_IGNORED = 1 << 20  # characters of it that are read
MOST_TRIES = 12  # of a file that fails; after that only an edit or `--retry` tries it again


@dataclass(frozen=True, slots=True)
class Differences:
    """What a scan of one source found. `alarm` says why what is missing must not be taken for deleted."""

    dirty: tuple[bytes, ...]  # relative paths of files to look into
    young: tuple[bytes, ...]  # such files that were written just now, and may not be whole yet
    missing: tuple[Known, ...]  # documents whose file is gone
    unwanted: tuple[Known, ...]  # documents whose file the patterns leave out now
    moving: tuple[bytes, ...]  # where files were that may lie at one of the dirty paths now
    unchanged: int
    alarm: str | None


def place(source: Source, relative: bytes) -> Place:
    full = os.path.join(os.fsencode(source.path), relative)
    return Place(source.name, relative, full.decode("utf-8", "backslashreplace"))


def labels(source: Source, relative: bytes) -> Labels:
    """What the settings say of a file: the source, and over it each of its rules that fits, in order."""
    said = Labels(source.domain, source.tags, source.boost)
    for rule in source.rules:
        if _pattern(rule.pattern).match_file(relative.decode("utf-8", "surrogateescape")):
            tags = (*said.tags, *(tag for tag in rule.tags if tag not in said.tags))
            domain = said.domain if rule.domain is None else rule.domain
            said = Labels(domain, tags, said.boost if rule.boost is None else rule.boost)
    return said


def chooser(source: Source) -> Callable[[bytes, bool], bool]:
    """Whether a path below the source (relative; and whether it is a folder) is wanted.

    Patterns are gitignore's: those of the settings, and those in the file IGNORE_FILE in the source's folder.
    """
    try:
        with open(os.path.join(os.fsencode(source.path), IGNORE_FILE), encoding="utf-8", errors="replace") as file:
            ignored = tuple(file.read(MOST_IGNORED).splitlines())
    except OSError:
        ignored = ()
    return _chooser(source.include, (*source.exclude, *ignored))


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines([pattern])


@lru_cache(maxsize=64)
def _chooser(include: tuple[str, ...], exclude: tuple[str, ...]) -> Callable[[bytes, bool], bool]:
    unwanted = GitIgnoreSpec.from_lines([*ALWAYS_EXCLUDED, *exclude])
    wanted = None if "**/*" in include else GitIgnoreSpec.from_lines(include)

    def wants(relative: bytes, is_folder: bool) -> bool:
        name = relative.decode("utf-8", "surrogateescape")
        if is_folder:
            return not unwanted.match_file(name + "/")
        return not unwanted.match_file(name) and (wanted is None or wanted.match_file(name))

    return wants


def walk(root: bytes, wants: Callable[[bytes, bool], bool], unreadable: list[bytes]) -> Iterator[tuple[bytes, Stat]]:
    """All below `root` that is wanted and no folder: its path relative to it, and what the disk says of it.

    Links are not followed; that they and devices cannot be read is found, and said, when they are read. Raises OSError
    when `root` itself cannot be listed; a folder that cannot be looked into is added to `unreadable`.
    """
    pending = [b""]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except FileNotFoundError:
            if not folder:
                raise
            continue
        except OSError:
            if not folder:
                raise
            unreadable.append(folder + b"/")
            continue
        for entry in entries:
            relative = folder + b"/" + entry.name if folder else entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    if wants(relative, True):
                        pending.append(relative)
                elif wants(relative, False):
                    found = entry.stat(follow_symlinks=False)
                    yield relative, Stat(found.st_size, found.st_mtime_ns, found.st_ino)
            except FileNotFoundError:
                continue
            except OSError:
                unreadable.append(folder + b"/" if folder else b"")


def scan(
    source: Source, known: list[Known], *, now: datetime, max_delete_share: float, quiet_seconds: float = 0.0
) -> Differences:
    """Compare the folder with what is known of the source, by stat alone: no file is opened.

    A file that was modified less than `quiet_seconds` ago is young.
    """
    here = {one.place.relative: one for one in sorted(known, key=lambda one: one.content is not None)}
    had = [one for one in known if _had_file(one)]
    wants = chooser(source)
    plain = None if source.rules else labels(source, b"")
    quiet_ns = time.time_ns() - int(quiet_seconds * 1e9)
    dirty: list[bytes] = []
    young: list[bytes] = []
    strangers: set[int] = set()  # sizes of files that may have been elsewhere before
    seen: set[bytes] = set()
    unreadable: list[bytes] = []
    unchanged = 0
    try:
        for relative, stat in walk(os.fsencode(source.path), wants, unreadable):
            seen.add(relative)
            one = here.get(relative)
            if one is not None and is_settled(one, stat, plain or labels(source, relative), now):
                unchanged += 1
                continue
            (young if stat.mtime_ns > quiet_ns else dirty).append(relative)
            if one is None or one.content is None:
                strangers.add(stat.size)
    except OSError as error:  # an unmounted disk is not a mass deletion
        why = f"{source.path} cannot be listed ({error.strerror}); nothing is removed"
        return Differences((), (), tuple(had), (), (), 0, why)
    # What lies in a folder that cannot be listed is not known to be gone.
    unseen = [
        one for one in had if one.place.relative not in seen and not one.place.relative.startswith(tuple(unreadable))
    ]
    unwanted = tuple(one for one in unseen if not _is_wanted(one.place.relative, wants))
    left_out = {one.document_id for one in unwanted}
    unseen = [one for one in unseen if one.document_id not in left_out]
    # A file that may be one of the strangers is not taken for deleted before those have been looked into.
    missing = tuple(one for one in unseen if one.stat.size not in strangers)
    moving = tuple(one.place.relative for one in unseen if one.stat.size in strangers)
    alarm = _alarm(source, len(missing), len(had), not seen, max_delete_share)
    return Differences(tuple(dirty), tuple(young), missing, unwanted, moving, unchanged, alarm)


def _is_wanted(relative: bytes, wants: Callable[[bytes, bool], bool]) -> bool:
    """Whether the patterns want the file and every folder on the way to it."""
    parts = relative.split(b"/")
    folders = (b"/".join(parts[:end]) for end in range(1, len(parts)))
    return wants(relative, False) and all(wants(folder, True) for folder in folders)


def _had_file(known: Known) -> bool:
    """Whether the document should have a file: one is known, or could not be read, or was there before a rollback put
    the document back and is no longer held."""
    return known.content is not None or known.error is not None or (known.live is not None and not known.held)


def is_settled(known: Known, stat: Stat, wanted: Labels, now: datetime) -> bool:
    """Whether a file with this stat needs no look: unchanged and in memory, held, or failed and not due again."""
    if known.stat != stat:
        return False
    if known.skipped:
        return True
    if known.error is not None:
        due = known.next_try_at
        # No pause is longer than the longest: what is due later was dated before the clock was set back.
        return due is not None and (known.tries >= MOST_TRIES or now < due <= now + LONGEST_PAUSE)
    if known.content is None:
        return False
    if known.held and known.held_content == known.content:
        return True
    return known.content == known.live and known.labels == wanted.with_own(known.own)


def _alarm(source: Source, missing: int, had: int, empty: bool, max_delete_share: float) -> str | None:
    if not missing:
        return None
    if missing == had and empty:
        return f"{source.path} is empty and held {had} documents; nothing is removed (`memex sync --confirm-deletes`)"
    if missing > max_delete_share * had:
        return (
            f"{missing} of {had} documents are gone from {source.path}, more than ingest.max_delete_share allows at "
            "once; nothing is removed (`memex sync --confirm-deletes`)"
        )
    return None
