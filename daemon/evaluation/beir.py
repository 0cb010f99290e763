"""Collections as BEIR (Thakur et al. 2021) keeps them: corpus.jsonl, queries.jsonl and qrels/*.tsv in one folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from daemon.evaluation.questions import Question, QuestionSet
from daemon.settings import Settings
from store.chunking import chunk
from store.errors import UsageError
from store.memory import Memory
from store.types import Batch, Chunk, Labels, Place, Section, Stat, Upsert

CORPUS = "corpus.jsonl"
DOCUMENTS = 64  # in one commit


def is_collection(folder: Path) -> bool:
    return (folder / CORPUS).is_file()


def read_questions(folder: Path) -> QuestionSet:
    """The queries that qrels judge: those of qrels/test.tsv or, without it, of all files. Raises UsageError."""
    files = sorted((folder / "qrels").glob("*.tsv"))
    test = folder / "qrels" / "test.tsv"
    judged: dict[str, dict[str, float]] = {}
    for path in [test] if test in files else files:
        for query, document, grade in _judgements(path):
            if grade > 0:
                judged.setdefault(query, {})[document] = grade
    queries = folder / "queries.jsonl"
    texts = {str(one["_id"]): str(one["text"]) for one in _records(queries, ("_id", "text"))}
    found = tuple(Question(texts[query], documents=graded) for query, graded in judged.items() if query in texts)
    if not found:
        raise UsageError(f"{folder}: no query of queries.jsonl is judged in qrels/*.tsv")
    return QuestionSet("beir", folder.resolve().name, found)


def load(folder: Path, memory: Memory, settings: Settings, on_progress: Callable[[int, int], None]) -> None:
    """Commit the corpus to a memory; a document's path is its id. `on_progress` is told documents done and in all."""
    with (folder / CORPUS).open("rb") as lines:
        total = sum(1 for _ in lines)
    records = _records(folder / CORPUS, ("_id", "text"))
    done = 0
    on_progress(done, total)
    while batch := list(islice(records, DOCUMENTS)):
        chunked = [(str(one["_id"]), _chunks(one, memory, settings)) for one in batch]
        memory.commit(Batch(upserts=tuple(_upserts(memory, chunked))))
        done += len(batch)
        on_progress(done, total)
    memory.maintain()  # as a memory that has been there for a while: compacted and indexed


def _chunks(record: dict[str, Any], memory: Memory, settings: Settings) -> tuple[Chunk, ...]:
    title, text = str(record.get("title") or "").strip(), str(record["text"]).strip()
    section = Section(text, (title,) if title else ()) if text else Section(title)
    return chunk([section], memory.embedder.spans, settings.chunking.tokens, settings.chunking.overlap)


def _upserts(memory: Memory, chunked: list[tuple[str, tuple[Chunk, ...]]]) -> Iterator[Upsert]:
    vectors, _ = memory.embed([one.text for _, chunks in chunked for one in chunks])
    now, start = memory.clock(), 0
    for name, chunks in chunked:
        digest = hashlib.sha256(name.encode()).hexdigest()
        own = vectors[start : start + len(chunks)]
        start += len(chunks)
        place, stat = Place("corpus", name.encode(), name), Stat(0, 0, 0)
        yield Upsert(digest[:16], place, stat, digest, Labels(), chunks, own, now)


def _judgements(path: Path) -> Iterator[tuple[str, str, float]]:
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split("\t")
        try:
            query, document, grade = fields[0], fields[-2], float(fields[-1])
        except (IndexError, ValueError):
            if number == 1 or not line.strip():  # the heading
                continue
            raise UsageError(f"{path}, line {number}: should be query, document and grade, with tabs between") from None
        yield query, document, grade


def _records(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(record, dict) or any(field not in record for field in needed):
            raise UsageError(f"{path}, line {number}: needs {' and '.join(map(repr, needed))}")
        yield record


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read ({reason}); --set takes JSON lines or a BEIR folder") from None
