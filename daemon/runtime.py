"""Settings, memory and models, opened once per process and shared by all that it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from daemon import heap
from daemon.answer import Answer, Load
from daemon.endpoint import Endpoint
from daemon.ingest import Dirty, Report, ingest, sweep
from daemon.parse import ParserProcess
from daemon.parsers import PARSER_VERSION
from daemon.scan import Differences, place, scan
from daemon.settings import Settings, Source
from daemon.turns import Turns
from store.chunking import CHUNKER_VERSION
from store.embedding import Embedder, open_embedder
from store.maintenance import Upkeep
from store.memory import Memory
from store.recent import Recent
from store.reranking import CrossEncoderReranker, Reranker
from store.search import Ranking
from store.types import Batch
from store.warm import Warm
from trainers.experts import ALONE, Shares
from trainers.generator import Generator
from trainers.model import LanguageModel, resolve

Result = TypeVar("Result")
RECENT = 0.2  # how much the latest batch counts in the pace


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast ingestion goes, lately; 0 before the first batch."""

    files_per_second: float = 0.0
    chunks_per_second: float = 0.0

    def after(self, files: int, chunks: int, seconds: float) -> Pace:
        share = RECENT if self.files_per_second else 1.0
        return Pace(
            self.files_per_second + share * (files / seconds - self.files_per_second),
            self.chunks_per_second + share * (chunks / seconds - self.chunks_per_second),
        )

    def seconds_for(self, files: int) -> float | None:
        """How long `files` will take at this pace; None when that is not known."""
        return files / self.files_per_second if self.files_per_second else None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sync is: files looked into, of those known to wait."""

    done: int
    total: int
    pace: Pace


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
        self.reranker = reranker(settings)
        self.memory = Memory(
            settings.state_dir,
            self.embedder,
            write=write,
            generation=generation(settings, self.embedder),
            settings=settings.model_dump(mode="json"),
            cache_mb=settings.embedding.cache_mb,
            ranking=ranking(settings),
            reranker=self.reranker,
            recent=settings.retrieval.cache,
        )
        self.parser = ParserProcess(seconds=settings.ingest.parse_seconds, memory_mb=settings.ingest.parse_memory_mb)
        self.batch_seconds = settings.ingest.batch_seconds
        # A daemon sets these three: how to run a job on the thread that writes, whether something waits there that
        # should come before a large document, and who wants to know how far a sync is.
        self.write: Callable[[Callable[[], Any]], Any] = lambda job: job()
        self.pressed: Callable[[], bool] = lambda: False
        self.on_progress: Callable[[Progress], None] = lambda progress: None
        self.alarms: dict[str, str] = {}  # source -> why its missing files are not taken for deleted
        self.pace = Pace()
        self.upkeep: Upkeep | None = None  # the latest, in this process
        self.turns = Turns()  # with the language model
        self._model = Warm(self._load)
        self._endpoint = Endpoint(settings.generator) if settings.generator.endpoint else None
        self.answers: Recent[tuple[Hashable, ...], Answer] = Recent(settings.generator.cache_answers)
        self._embedded_per_second = 20.0  # a first guess; measured from the first batch on

    def close(self) -> None:
        self.parser.close()
        self.memory.close()

    def models_dir(self) -> Path:
        return models_dir(self.settings)

    def with_model(
        self, use: Callable[[Load, Callable[[], bool]], Result], stop: Callable[[], bool] = lambda: False
    ) -> Result:
        """Run `use` with a function that gives the language model and one that says whether to stop: one at a time, as
        the model has one adapter at a time; an endpoint takes all that come. Raises what `Turns.take` raises."""
        endpoint = self._endpoint
        if endpoint:
            return use(lambda _adapter, _shares=ALONE: endpoint, lambda: self.turns.closed or stop())
        with self.turns.take(stop):
            return use(self._serving, lambda: self.turns.closed or stop())

    def rest(self) -> None:
        """Put down the models that were not used for as long as the settings say."""
        if minutes := self.settings.limits.idle_minutes:
            self._model.put_down(60 * minutes)
            self.memory.put_down(60 * minutes)
            heap.give_back()

    def source(self, name: str) -> Source:
        return next(source for source in self.settings.sources if source.name == name)

    def ingest(self, paths: list[Dirty], seconds: float) -> Report:
        """One commit of what the paths hold, about `seconds` of embedding at the most. On the thread that writes."""
        started = time.perf_counter()
        most = max(8, int(self._embedded_per_second * seconds))
        # Without a cache, what is embedded of an unfinished document would be lost: then it is not interrupted.
        pressed = self.pressed if self.settings.embedding.cache_mb else lambda: False
        report = ingest(self.memory, self.settings, paths, self.parser, most_chunks=most, pressed=pressed)
        if report.chunks_embedded >= 8:
            self._embedded_per_second = report.chunks_embedded / report.embed_seconds
        if self.memory.upkeep_due():
            self.upkeep = self.memory.maintain()
            heap.give_back()
        looked_into = len(paths) - len(report.rest)
        self.pace = self.pace.after(looked_into, report.chunks_embedded, time.perf_counter() - started)
        return report

    def differences(self, source: Source) -> Differences:
        """What a sweep would find, doing nothing."""
        known = self.memory.known(source.name)
        return scan(source, known, now=self.memory.clock(), max_delete_share=self.settings.ingest.max_delete_share)

    def printable(self, source: str, relative: bytes) -> str:
        return place(self.source(source), relative).path

    def sweep(self, source: Source, *, confirm: bool = False) -> Swept:
        """Scan one source, remove what is gone, and say what is to be ingested. On the thread that writes."""
        found, report = sweep(self.memory, self.settings, source, confirm=confirm)
        if found.alarm and not confirm:
            self.alarms[source.name] = found.alarm
        else:
            self.alarms.pop(source.name, None)
        # Last those whose files may have moved: if not, `ingest` calls them missing, and another sweep removes them.
        ready = tuple(Dirty(source.name, relative) for relative in (*found.dirty, *found.moving))
        return Swept(ready, tuple(Dirty(source.name, relative) for relative in found.young), report)

    def look_for_strays(self, *, confirm: bool = False) -> Report:
        """Say which sources have documents and are no longer in the settings; remove those documents if confirmed."""
        configured = {source.name for source in self.settings.sources}
        strays = self.memory.sources().keys() - configured
        for name in self.alarms.keys() - configured - strays:
            del self.alarms[name]
        removed = 0
        for name in sorted(strays):
            documents = [one for one in self.memory.known(name) if one.live is not None or one.error is not None]
            if confirm:
                self.alarms.pop(name, None)
                self.memory.commit(Batch(removed=tuple(one.document_id for one in documents)))
                removed += sum(one.live is not None for one in documents)
            else:
                self.alarms[name] = (
                    f"source {name!r} is no longer in the settings; its {len(documents)} documents stay until it is "
                    "put back or `memex sync --confirm-deletes`"
                )
        return Report(removed=removed)

    def synchronise(
        self,
        sources: list[Source],
        *,
        below: tuple[str, ...] = (),
        confirm: bool = False,
    ) -> Report:
        """Bring memory in step with the folders, now, step by step on the thread that writes: others go in between.

        With `below`, only what lies at or below one of these absolute paths is ingested.
        """
        total = Report()
        waiting: list[Dirty] = []
        for source in sources:
            swept = self.write(partial(self.sweep, source, confirm=confirm))
            total += swept.report
            waiting += [*swept.young, *swept.ready]
        if below:
            waiting = [one for one in waiting if self._lies_below(one, below)]
        known = len(waiting)
        while waiting:
            size = self.settings.ingest.batch_documents
            batch, waiting = waiting[:size], waiting[size:]
            report = self.write(partial(self.ingest, batch, self.batch_seconds))
            total += report
            # A file that never stands still is left to the next sync.
            waiting = [*report.rest, *waiting, *(report.again if waiting else ())]
            self.on_progress(Progress(known - len(waiting), known, self.pace))
        for name in {dirty.source for dirty in total.missing}:
            swept = self.write(partial(self.sweep, self.source(name), confirm=confirm))
            total += Report(removed=swept.report.removed)
        if not below:  # last: another source may have taken over their documents
            total += self.write(partial(self.look_for_strays, confirm=confirm))
        return total

    def _lies_below(self, dirty: Dirty, below: tuple[str, ...]) -> bool:
        path = self.source(dirty.source).path / dirty.relative.decode("utf-8", "surrogateescape")
        return any(path.is_relative_to(one) for one in below)

    def _serving(self, adapter: Path | None, shares: Shares = ALONE) -> Generator:
        model = self._model.get()
        model.use_adapter(adapter, shares)
        return model

    def _load(self) -> LanguageModel:
        path = resolve(self.settings.generator.model, self.models_dir())
        return LanguageModel.load(path, self.settings.generator.device, self.settings.limits.threads or None)


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


def ranking(settings: Settings) -> Ranking:
    """How the settings want results to be ordered."""
    chosen = settings.retrieval
    return Ranking(chosen.mode, chosen.text_weight, chosen.rerank_seconds)


def reranker(settings: Settings) -> Reranker | None:
    """The reranker that the settings ask for. Raises MissingModel."""
    if not settings.retrieval.reranker:
        return None
    return CrossEncoderReranker(settings.retrieval.reranker, device=settings.embedding.device)


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
