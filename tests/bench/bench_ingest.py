"""What ingestion costs: unchanged folders, edits, renames, and everything around the embedding."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from daemon import operations
from daemon.config import Settings
from daemon.parsers import parse_bytes
from daemon.runtime import Runtime
from daemon.settings import Embedding, Source
from store.chunking import chunk
from tests.bench import corpus

PAGE = 3000  # characters


def open_runtime(folder: Path, model: str) -> Runtime:
    docs = folder / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    settings = Settings(state_dir=folder / "state", sources=(Source(path=docs),), embedding=Embedding(model=model))
    return Runtime(settings, write=True)


def run(quick: bool = False) -> dict[str, Any]:
    """All of it; `quick` on a tenth of the files."""
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as name:
        folder = Path(name)
        return {
            **overhead(folder / "overhead", 20 if quick else 120),
            **unchanged(folder / "unchanged", 1_000 if quick else 10_000),
            **edits(folder / "edits", 20 if quick else 200),
            **moves(folder / "moves", 100 if quick else 1_000),
        }


def overhead(folder: Path, count: int) -> dict[str, Any]:
    """Parse, chunk and commit as a share of embedding, with the real model."""
    runtime = open_runtime(folder, "default")
    runtime.embedder.embed(["warm"])
    corpus.fill(folder / "docs", count, 12)
    done = operations.sync(runtime)
    runtime.close()
    around = done["seconds"] - done["embed_seconds"]
    return {
        "ingest_chunks_per_second": done["chunks_embedded"] / done["seconds"],
        "ingest_parse_and_chunk_seconds": done["parse_seconds"],
        "ingest_embed_seconds": done["embed_seconds"],
        "ingest_commit_seconds": done["commit_seconds"],
        "ingest_overhead_over_embedding": around / done["embed_seconds"],
    }


def unchanged(folder: Path, count: int) -> dict[str, Any]:
    """`sync` of an unchanged folder against a bare walk of it."""
    runtime = open_runtime(folder, "hashing")
    corpus.fill(folder / "docs", count, 1)
    operations.sync(runtime)
    walks, syncs = [], []
    for _ in range(5):
        started = time.perf_counter()
        seen = bare_walk(folder / "docs")
        walks.append(time.perf_counter() - started)
        done = operations.sync(runtime)
        syncs.append(done["seconds"])
        assert seen == done["unchanged"] == count
    runtime.close()
    return {"unchanged_seconds": min(syncs), "unchanged_over_bare_walk": min(syncs) / min(walks)}


def edits(folder: Path, places: int) -> dict[str, Any]:
    """Chunks embedded when a 300-page document is edited: a paragraph at its top, a word in its middle; then the chunks
    that would be for a word at many places."""
    runtime = open_runtime(folder, "hashing")
    # No headings: the words of one are in each of its section's chunks.
    stock = [one for one in corpus.paragraphs() if not one.startswith("#")]
    text, number = "", 0
    while len(text) < 300 * PAGE:
        again, one = divmod(number, len(stock))
        text += stock[one] + (f" (Part {again + 1}.)" if again else "") + "\n\n"
        number += 1
    path = folder / "docs" / "book.md"

    def embedded(changed: str) -> int:
        path.write_text(changed)
        return int(operations.sync(runtime)["chunks_embedded"])

    def with_a_word(at: int) -> str:
        at = text.index(" ", at)
        return text[:at] + " unexpectedly" + text[at:]

    def chunks(changed: str) -> set[str]:
        sections = parse_bytes(changed.encode(), path.name).sections
        asked = runtime.settings.chunking
        return {piece.text for piece in chunk(sections, runtime.embedder.spans, asked.tokens, asked.overlap)}

    whole = embedded(text)
    top = embedded("A paragraph that was not there before, put at the very top of the book.\n\n" + text)
    embedded(text)
    middle = embedded(with_a_word(len(text) // 2))
    runtime.close()
    known = chunks(text)
    costs = [len(chunks(with_a_word(len(text) * place // (places + 1))) - known) for place in range(1, places + 1)]
    return {
        "edit_document_chunks": whole,
        "edit_paragraph_at_top_embedded": top,
        "edit_word_in_middle_embedded": middle,
        "edit_word_embedded_mean": sum(costs) / len(costs),
        "edit_word_embedded_max": max(costs),
        "edit_word_share_above_two": sum(cost > 2 for cost in costs) / len(costs),
    }


def moves(folder: Path, count: int) -> dict[str, Any]:
    """Chunks embedded and seconds for a folder renamed, copied, and files put back to what they were."""
    runtime = open_runtime(folder, "hashing")
    docs = folder / "docs"
    files = corpus.fill(docs / "one", count, 4)
    operations.sync(runtime)
    os.rename(docs / "one", docs / "two")
    renamed = operations.sync(runtime)
    assert renamed["moved"] == count, renamed
    shutil.copytree(docs / "two", docs / "three")
    copied = operations.sync(runtime)
    assert copied["added"] == count, copied
    some = [docs / "two" / file.relative_to(docs / "one") for file in files[:100]]
    before = [file.read_text() for file in some]
    for file in some:
        file.write_text(file.read_text() + "\n\nAnd one more thing.\n")
    operations.sync(runtime)
    for file, text in zip(some, before, strict=True):
        file.write_text(text)
    back = operations.sync(runtime)
    runtime.close()
    return {
        "rename_embedded": renamed["chunks_embedded"],
        "rename_seconds": renamed["seconds"],
        "copy_embedded": copied["chunks_embedded"],
        "copy_seconds": copied["seconds"],
        "put_back_embedded": back["chunks_embedded"],
    }


def bare_walk(folder: Path) -> int:
    """scandir and stat, nothing else."""
    count, pending = 0, [str(folder)]
    while pending:
        for entry in os.scandir(pending.pop()):
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            else:
                entry.stat(follow_symlinks=False)
                count += 1
    return count
