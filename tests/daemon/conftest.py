"""A source's folder and a memory of it, with a fake embedder and everything else real."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon import operations
from daemon.parse import ParserProcess
from daemon.runtime import Runtime
from daemon.settings import Embedding, Ingest, Settings, Source
from trainers import cycle


class World:
    """One source `docs`, and a runtime that may be opened again with other settings."""

    def __init__(self, root: Path, parser: ParserProcess) -> None:
        self.docs = root / "docs"
        self.docs.mkdir()
        self._parser = parser
        self.settings = Settings(
            state_dir=root / "state",
            sources=(Source(path=self.docs),),
            embedding=Embedding(model="hashing"),
            ingest=Ingest(max_delete_share=1.0),
        )
        self.runtime: Runtime
        self.open()

    def open(self) -> None:
        self.runtime = Runtime(self.settings, write=True)
        self.runtime.parser.close()
        self.runtime.parser = self._parser

    def close(self) -> None:
        self.runtime.memory.close()

    def reopen(self, **changed: Any) -> None:
        """As a restart, with some settings changed."""
        self.close()
        self.settings = self.settings.model_copy(update=changed)
        self.open()

    def allow_deletes(self, share: float) -> None:
        self.reopen(ingest=Ingest(max_delete_share=share))

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def sync(self, **arguments: Any) -> dict[str, Any]:
        return operations.sync(self.runtime, **arguments)

    def pass_time(self, time: timedelta) -> None:
        before: Callable[[], datetime] = self.runtime.memory.clock
        self.runtime.memory.clock = lambda: before() + time

    def remembered(self, when: str | None = None) -> dict[str, str]:
        """path below the folder -> text, as Lance has it; the catalogue must say the same."""
        memory = self.runtime.memory
        head = memory.state(when).head
        contents = memory.vectors.table_of_contents(head.generation, head.version)
        live = {one: (r.content, r.path, r.chunks) for one, r in memory.live_at(head).items() if r.chunks}
        assert contents == live
        found: dict[str, str] = {}
        for hit in memory.chunks(list(contents), head):
            path = os.path.relpath(hit.path, self.docs)
            found[path] = f"{found[path]} {hit.text}" if path in found else hit.text
        assert len(found) == len(contents), "two documents at one path"
        return found

    def ids(self) -> dict[str, str]:
        """path below the folder -> id, of what is listed."""
        listed = operations.documents(self.runtime)["documents"]
        return {os.path.relpath(one["path"], self.docs): one["document_id"] for one in listed}

    def embedded(self) -> int:
        return self.runtime.embedder.embedded

    def held(self) -> dict[str, str | None]:
        return {os.path.relpath(one.path, self.docs): one.content for one in self.runtime.memory.holds()}


@pytest.fixture(scope="session")
def parser() -> Iterator[ParserProcess]:
    with ParserProcess() as process:
        yield process


@pytest.fixture
def world(tmp_path: Path, parser: ParserProcess) -> Iterator[World]:
    one = World(tmp_path, parser)
    yield one
    one.close()


def counts(report: dict[str, Any]) -> dict[str, int]:
    """What a sync did, without the zeros."""
    names = ("added", "changed", "removed", "moved", "unchanged", "failed", "chunks_embedded")
    return {name: report[name] for name in names if report[name]}


def in_this_process(folder: Path, **_: Any) -> dict[str, Any]:
    """A training run where `run_child` would start a child, which takes seconds to load what is loaded here."""
    cycle.run(folder)
    found: dict[str, Any] = json.loads((folder / cycle.EVIDENCE).read_text())
    return found
