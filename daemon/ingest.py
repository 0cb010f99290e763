"""Dirty paths -> one atomic commit."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from daemon.parse import ParserProcess, StillParsing
from daemon.reading import ChangedWhileRead, read_file
from daemon.scan import Differences, chooser, labels, place, scan
from daemon.secrets import secret
from daemon.settings import Settings, Source
from store.chunking import chunk
from store.errors import ParseError
from store.memory import Memory, new_id
from store.types import Batch, Chunk, Failed, Known, Labels, Place, Rehome, Seen, Stat, Upsert, Vectors

READ_AHEAD = 64 << 20  # bytes of files held at once
UNREAD = Stat(-1, 0, 0)  # of a file that the disk says nothing of: equals no file's, so the next scan looks again


@dataclass(frozen=True, slots=True)
class Dirty:
    """A path to look into, relative to its source's folder. `closed`: its writer has closed it, so it stands still."""

    source: str
    relative: bytes
    closed: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingestion did, in documents, chunks and seconds. Reports add up."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    moved: int = 0
    unchanged: int = 0
    failed: int = 0
    chunks_embedded: int = 0
    parse_seconds: float = 0.0
    embed_seconds: float = 0.0
    commit_seconds: float = 0.0
    missing: tuple[Dirty, ...] = ()  # no file is there: for `sweep` to judge
    again: tuple[Dirty, ...] = ()  # changed while they were read
    rest: tuple[Dirty, ...] = ()  # not looked into or not finished: the batch was full, or something else came first

    def __add__(self, other: Report) -> Report:
        return Report(*(getattr(self, name) + getattr(other, name) for name in Report.__slots__))


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was read."""

    data: bytes
    stat: Stat
    content: str  # the content hash


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A file whose content memory does not have yet."""

    known: Known | None
    place: Place
    stat: Stat
    content: str
    chunks: tuple[Chunk, ...]
    labels: Labels
    own: Labels


@dataclass(slots=True)
class _Findings:
    """What the files of one batch turned out to hold."""

    fresh: list[_Fresh] = field(default_factory=list)
    rehomed: list[Rehome] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    report: Report = Report()
    chunks: int = 0  # of the fresh ones together
    moving: set[str] = field(default_factory=set)  # documents whose new place is in this batch


def ingest(
    memory: Memory,
    settings: Settings,
    paths: Sequence[Dirty],
    parser: ParserProcess,
    *,
    most_chunks: int,
    pressed: Callable[[], bool] = lambda: False,
) -> Report:
    """Look into the paths and commit what their files hold as one step.

    A file that cannot be read is recorded as failed and costs nothing else. Nothing is removed here: a path without a
    file comes back as `missing`. Once `most_chunks` are ready to embed the other paths come back as `rest`. A document
    larger than that is embedded piece by piece: when `pressed` says between two pieces that something else should come
    first, nothing is committed and all paths come back; what is embedded by then waits in the embedding cache. A file
    that takes long to parse comes back as `rest` then, and is parsed aside meanwhile.
    """
    findings = _Findings()
    by_source: dict[str, list[bytes]] = {}
    for dirty in paths:
        by_source.setdefault(dirty.source, []).append(dirty.relative)
    started = time.perf_counter()
    for source in settings.sources:
        if source.name in by_source:
            _examine(memory, settings, source, by_source[source.name], parser, findings, most_chunks, pressed)
    parsed = time.perf_counter()
    vectors, embedded = _embed(memory, findings, most_chunks, pressed)
    finished = time.perf_counter()
    if vectors is None:
        return Report(
            chunks_embedded=embedded, parse_seconds=parsed - started, embed_seconds=finished - parsed, rest=tuple(paths)
        )
    upserts = _upserts(memory, findings, vectors)
    batch = Batch(tuple(upserts), tuple(findings.rehomed), (), tuple(findings.seen), tuple(findings.failed))
    if batch != Batch():
        memory.commit(batch)
    return findings.report + Report(
        chunks_embedded=embedded,
        parse_seconds=parsed - started,
        embed_seconds=finished - parsed,
        commit_seconds=time.perf_counter() - finished,
    )


def sweep(memory: Memory, settings: Settings, source: Source, *, confirm: bool = False) -> tuple[Differences, Report]:
    """Scan one source and remove the documents whose files are gone, unless that looks like an accident.

    `confirm` removes them all the same. What else differs is left to `ingest`.
    """
    known = memory.known(source.name)
    found = scan(
        source,
        known,
        now=memory.clock(),
        max_delete_share=settings.ingest.max_delete_share,
        quiet_seconds=settings.ingest.settle_seconds,
    )
    gone = found.unwanted if found.alarm and not confirm else found.missing + found.unwanted
    if gone:
        memory.commit(Batch(removed=tuple(one.document_id for one in gone)))
    return found, Report(removed=sum(one.live is not None for one in gone), unchanged=found.unchanged)


def _examine(
    memory: Memory,
    settings: Settings,
    source: Source,
    relatives: Sequence[bytes],
    parser: ParserProcess,
    findings: _Findings,
    most_chunks: int,
    pressed: Callable[[], bool],
) -> None:
    """Read each file of one source and decide what it means for memory."""
    known_here = memory.known_at(source.name, relatives)
    wants = chooser(source)
    try:
        root = os.open(source.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # the whole source is away: the sweep says so
        findings.report += Report(missing=tuple(Dirty(source.name, relative) for relative in relatives))
        return
    try:
        files = _read(root, [one for one in relatives if wants(one, False)], int(settings.ingest.max_file_mb * 1e6))
        contents = {file.content for file in files.values() if isinstance(file, _File)}
        twins = memory.known_with(sorted(contents))  # once for the batch: it commits as one step anyway
        for relative in relatives:
            known, here = known_here.get(relative), place(source, relative)
            if known is not None and known.document_id in findings.moving:
                known = None  # its file lies elsewhere now, and another one took its place
            if not wants(relative, False):
                findings.report += Report(missing=(Dirty(source.name, relative),) if known else ())
                continue
            file = files.pop(relative, None)
            if file is None or findings.chunks >= most_chunks:
                findings.report += Report(rest=(Dirty(source.name, relative),))
                continue
            content: str | None = None
            stat = UNREAD
            try:
                if not isinstance(file, _File):
                    raise file
                stat, content = file.stat, file.content
                if settings.ingest.skip_secrets and (kind := secret(here.path, file.data)):
                    document_id = known.document_id if known else new_id()
                    why = f"skipped: {kind} (ingest.skip_secrets)"
                    findings.failed.append(Failed(document_id, here, stat, content, why, skipped=True))
                    continue
                asked = labels(source, relative)
                alike = [one for one in twins if content in (one.content, one.live, one.held_content)]
                if _known_content(settings, alike, known, here, stat, content, asked, findings):
                    continue
                parsed = parser.parse(file.data, os.fsdecode(relative), pressed)
                own = _own_labels(parsed.metadata)
                chunks = chunk(
                    parsed.sections, memory.embedder.spans, settings.chunking.tokens, settings.chunking.overlap
                )
                findings.fresh.append(_Fresh(known, here, stat, content, chunks, asked.with_own(own), own))
                findings.chunks += len(chunks)
            except StillParsing:
                findings.report += Report(rest=(Dirty(source.name, relative),))
            except FileNotFoundError:
                findings.report += Report(missing=(Dirty(source.name, relative),))
            except ChangedWhileRead:
                findings.report += Report(again=(Dirty(source.name, relative),))
            except (ParseError, OSError) as error:
                reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
                document_id = known.document_id if known else new_id()
                stat = _stat(root, relative) if stat == UNREAD else stat
                findings.failed.append(Failed(document_id, here, stat, content, reason))
                findings.report += Report(failed=1)
    finally:
        os.close(root)


def _read(root: int, relatives: Iterable[bytes], max_bytes: int) -> dict[bytes, _File | Exception]:
    """Each file, or what was raised when it was read; those past READ_AHEAD bytes in all are left out."""
    files: dict[bytes, _File | Exception] = {}
    size = 0
    for relative in relatives:
        if size >= READ_AHEAD:
            break
        try:
            data, stat = read_file(root, relative, max_bytes)
        except (ParseError, ChangedWhileRead, OSError) as error:
            files[relative] = error
        else:
            files[relative] = _File(data, stat, hashlib.blake2b(data, digest_size=16).hexdigest())
            size += len(data)
    return files


def _known_content(
    settings: Settings,
    twins: Sequence[Known],
    known: Known | None,
    here: Place,
    stat: Stat,
    content: str,
    asked: Labels,
    findings: _Findings,
) -> bool:
    """Decide by content alone what needs no parsing: touched, held, moved, copied. False when it must be parsed."""
    document_id = known.document_id if known else new_id()
    taken = known is not None and (known.content or known.live or known.error)  # the place belongs to a document
    relabelled = known is not None and known.labels != asked.with_own(known.own)
    if known is not None and (content == known.held_content or (content == known.live and not relabelled)):
        findings.seen.append(Seen(document_id, here, stat, content))
        findings.report += Report(unchanged=1)
        return True
    suffix = os.path.splitext(here.relative)[1]
    for twin in twins:
        same_kind = os.path.splitext(twin.place.relative)[1] == suffix  # the name decides how a file is parsed
        gone = twin.document_id not in findings.moving and not _is_there(settings, twin)
        if twin.live == content and same_kind:
            moved = gone and not taken
            if moved:
                findings.moving.add(twin.document_id)
                document_id = twin.document_id
            said = asked.with_own(twin.own)
            findings.rehomed.append(Rehome(document_id, twin.document_id, here, stat, content, said, twin.own))
            findings.report += Report(moved=1) if moved else _new_or_changed(known)
            return True
        if twin.held_content == content:
            if gone and not taken:
                findings.moving.add(twin.document_id)
                findings.seen.append(Seen(twin.document_id, here, stat, content))
            else:
                reason = f"the same content as {twin.place.path}, which a rollback took out"
                findings.seen.append(Seen(document_id, here, stat, content, held=reason))
            findings.report += Report(unchanged=1)
            return True
    return False


def _own_labels(metadata: Mapping[str, str]) -> Labels:
    """What a document's front matter says of it."""
    tags = tuple(tag.strip() for tag in metadata.get("tags", "").split(",") if tag.strip())
    return Labels(metadata.get("domain", ""), tags)


def _is_there(settings: Settings, twin: Known) -> bool:
    """Whether the twin's file still lies where it was seen; as far as one can tell, of a source that is away.

    A source that was taken out of the settings has no files: what another source has of it is taken over from there.
    """
    source = next((one for one in settings.sources if one.name == twin.place.source), None)
    if twin.content is None or source is None:
        return False
    if not source.path.is_dir():
        return True
    try:
        os.lstat(os.path.join(os.fsencode(source.path), twin.place.relative))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # its folder cannot be looked into
        return True
    return True


def _stat(root: int, relative: bytes) -> Stat:
    """What the disk says of a file that could not be read, so that it is left alone until it changes or is due."""
    try:
        found = os.stat(relative, dir_fd=root, follow_symlinks=False)
    except OSError:
        return UNREAD
    return Stat(found.st_size, found.st_mtime_ns, found.st_ino)


def _embed(
    memory: Memory, findings: _Findings, most_chunks: int, pressed: Callable[[], bool]
) -> tuple[Vectors | None, int]:
    """Vectors for all fresh chunks of the batch, None when it was pressed to stop; and how many had to be computed."""
    texts = [one.text for fresh in findings.fresh for one in fresh.chunks]
    pieces, computed = [], 0
    for start in range(0, len(texts), most_chunks):
        if computed and start and pressed():  # never without some progress, or it might be pressed for ever
            return None, computed
        vectors, fresh = memory.embed(texts[start : start + most_chunks])
        pieces.append(vectors)
        computed += fresh
    return np.concatenate(pieces) if pieces else np.empty((0, memory.embedder.dimension), np.float32), computed


def _upserts(memory: Memory, findings: _Findings, vectors: Vectors) -> list[Upsert]:
    now = memory.clock()
    upserts, start = [], 0
    for one in findings.fresh:
        document_id = one.known.document_id if one.known else new_id()
        own = vectors[start : start + len(one.chunks)]
        start += len(one.chunks)
        upserts.append(Upsert(document_id, one.place, one.stat, one.content, one.labels, one.chunks, own, now, one.own))
        findings.report += _new_or_changed(one.known)
    return upserts


def _new_or_changed(known: Known | None) -> Report:
    return Report(changed=1) if known is not None and known.live is not None else Report(added=1)
