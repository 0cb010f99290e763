"""Settings, memory and models, opened once per process and shared by all that it does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.config import fingerprint
from daemon.ingest import Dirty, Report, ingest, sweep
from daemon.parse import ParserProcess
from daemon.parsers import PARSER_VERSION
from daemon.scan import Differences, place, scan
from daemon.settings import Settings, Source
from store.chunking import CHUNKER_VERSION
from store.embedding import Embedder, open_embedder
from store.memory import Memory
from trainers.model import LanguageModel, resolve


@dataclass(frozen=True, slots=True)
class Progress:
    """How far long work is: documents looked into of those known to wait, and chunks embedded per second."""

    done: int
    total: int
    chunks_per_second: float


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found to ingest (`young`: written just now, and perhaps not whole yet), and what it removed."""

    ready: tuple[Dirty, ...]
    young: tuple[Dirty, ...]
    report: Report


class Runtime:
    """Opened for writing it may ingest, roll back and refresh; see `Memory`. Close it in the end."""

    def __init__(self, settings: Settings, *, write: bool) -> None:
        """Raises what `Memory` and `embedder` raise."""
        self.settings = settings
        self.embedder = embedder(settings)
        self.memory = Memory(
            settings.state_dir,
            self.embedder,
            write=write,
            generation=generation(settings, self.embedder),
            config=fingerprint(settings),
            cache_mb=settings.embedding.cache_mb,
        )
        self.parser = ParserProcess(seconds=settings.ingest.parse_seconds, memory_mb=settings.ingest.parse_memory_mb)
        self.batch_seconds = settings.ingest.batch_seconds
        self.after_commit: Callable[[Progress], None] = lambda progress: None
        self.alarms: dict[str, str] = {}  # source -> why its missing files are not taken for deleted
        self._model: LanguageModel | None = None
        self._generating = threading.Lock()
        self._chunks_per_second = 20.0  # a first guess; measured from the first batch on

    def close(self) -> None:
        self.parser.close()
        self.memory.close()

    def models_dir(self) -> Path:
        return models_dir(self.settings)

    def with_model(self, use: Callable[[Callable[[], LanguageModel]], Any]) -> Any:
        """Run `use`, one at a time, with a function that gives the loaded language model."""
        with self._generating:
            return use(self._load)

    def source(self, name: str) -> Source:
        return next(source for source in self.settings.sources if source.name == name)

    def ingest(self, paths: list[Dirty], seconds: float) -> Report:
        """One commit of what the paths hold, about `seconds` of embedding at the most."""
        most = max(8, int(self._chunks_per_second * seconds))
        report = ingest(self.memory, self.settings, paths, self.parser, most_chunks=most)
        if report.chunks_embedded >= 8:
            self._chunks_per_second = report.chunks_embedded / report.embed_seconds
        return report

    def differences(self, source: Source) -> Differences:
        """What a sweep would find, doing nothing."""
        known = self.memory.known(source.name)
        return scan(source, known, now=self.memory.clock(), max_delete_share=self.settings.ingest.max_delete_share)

    def printable(self, source: str, relative: bytes) -> str:
        return place(self.source(source), relative).path

    def sweep(self, source: Source, *, confirm: bool = False) -> Swept:
        """Scan one source, remove what is gone, and say what is to be ingested."""
        found, report = sweep(self.memory, self.settings, source, confirm=confirm)
        if found.alarm and not confirm:
            self.alarms[source.name] = found.alarm
        else:
            self.alarms.pop(source.name, None)
        # Last those whose files may have moved: if not, `ingest` calls them missing, and another sweep removes them.
        ready = tuple(Dirty(source.name, relative) for relative in (*found.dirty, *found.moving))
        return Swept(ready, tuple(Dirty(source.name, relative) for relative in found.young), report)

    def synchronise(
        self,
        sources: list[Source],
        *,
        below: tuple[str, ...] = (),
        confirm: bool = False,
    ) -> Report:
        """Bring memory in step with the folders, now, calling `after_commit` as it goes.

        With `below`, only what lies at or below one of these absolute paths is ingested.
        """
        total = Report()
        waiting: list[Dirty] = []
        for source in sources:
            swept = self.sweep(source, confirm=confirm)
            total += swept.report
            waiting += [*swept.young, *swept.ready]
        if below:
            waiting = [one for one in waiting if self._lies_below(one, below)]
        known, tried = len(waiting), 0
        while waiting:
            size = self.settings.ingest.batch_documents
            batch, waiting = waiting[:size], waiting[size:]
            report = self.ingest(batch, self.batch_seconds)
            total += report
            # A file that never stands still is left to the next sync.
            waiting = [*report.rest, *waiting, *(report.again if waiting else ())]
            tried = known - len(waiting)
            self.after_commit(Progress(tried, known, self._chunks_per_second))
        for name in {dirty.source for dirty in total.missing}:
            total += Report(removed=self.sweep(self.source(name), confirm=confirm).report.removed)
        return total

    def _lies_below(self, dirty: Dirty, below: tuple[str, ...]) -> bool:
        path = self.source(dirty.source).path / dirty.relative.decode("utf-8", "surrogateescape")
        return any(path.is_relative_to(one) for one in below)

    def _load(self) -> LanguageModel:
        if self._model is None:
            path = resolve(self.settings.generator.model, self.models_dir())
            threads = self.settings.limits.threads or None
            self._model = LanguageModel.load(path, self.settings.generator.device, threads)
        return self._model


def models_dir(settings: Settings) -> Path:
    """Where converted models are kept."""
    return settings.state_dir / "models"


def embedder(settings: Settings) -> Embedder:
    """The embedder that the settings ask for. Raises MissingModel, and ConfigError if its backend is not installed."""
    return open_embedder(
        settings.embedding.model,
        device=settings.embedding.device,
        backend=settings.embedding.backend,
        batch_tokens=settings.embedding.batch_tokens,
        threads=settings.limits.threads,
        cpu_share=settings.limits.cpu_share,
        models=models_dir(settings),
    )


def generation(settings: Settings, embedder: Embedder) -> dict[str, Any]:
    """How chunks and vectors are made: what changes any of it makes another generation. The backend that computes the
    vectors does not; see `SentenceTransformerEmbedder`."""
    return {
        "parser": PARSER_VERSION,
        "chunker": CHUNKER_VERSION,
        "chunking.tokens": settings.chunking.tokens,
        "chunking.overlap": settings.chunking.overlap,
        "embedding.model": embedder.fingerprint,
    }
