"""Thousands of small commits, maintained as the daemon does it: disk, memory and time stay bounded."""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pytest

from store import maintenance
from store.embedding import HashingEmbedder
from store.memory import Memory
from store.types import Batch, Labels, Rehome, Stat, Upsert
from store.vectors import upkeep
from tests.store.conftest import place, upsert

# Commits in all, and between two points of the curve. What the process keeps grows by 84 MB from the 1,000th commit to
# the 5,000th, by 18 to the 10,000th and by 9 to the 15,000th, as a longer run showed.
COMMITS, EVERY = 10_000, 1000
DOCUMENTS = 500  # once there are as many, each new one takes the place of another
SNAPSHOT, KEPT = 250, 4  # commits between two snapshots, and how many of them stay
CACHES = {"store.vectors.generations.INDEX_CACHE": 8 << 20, "store.vectors.generations.METADATA_CACHE": 8 << 20}
CACHE_MB = 4.0  # of embeddings; all caches are full before the first half is over
WORDS = [start + end for start in ("ar", "bel", "cor", "dun", "el", "far", "gor") for end in ("an", "is", "um", "eth")]


@dataclass(frozen=True)
class Point:
    commits: int
    documents: int
    live_mb: float  # texts and vectors of the head, without anything around them
    disk_mb: float  # of the state directory
    rss_mb: float
    search_ms: float  # median
    commit_ms: float  # mean since the point before, maintenance included
    upkeep_ms: float  # the longest maintenance since then
    versions: int
    fragments: int
    segments: int


class Soak:
    """One small document a commit: new, edited, moved or removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.random = random.Random(1)
        self.memory = Memory(
            folder / "state", HashingEmbedder(), write=True, generation={"parser": 1}, cache_mb=CACHE_MB
        )
        self.live: dict[str, Upsert] = {}
        self.number = 0
        self.longest = 0.0

    def run(self) -> list[Point]:
        points = []
        for _ in range(COMMITS // EVERY):
            self.longest, started = 0.0, time.perf_counter()
            for _ in range(EVERY):
                self.step()
            points.append(self.point(time.perf_counter() - started))
        self.memory.close()
        return points

    def step(self) -> None:
        """A commit, and what the daemon does besides."""
        self.number += 1
        self.memory.commit(self.batch())
        if self.memory.upkeep_due():
            started = time.perf_counter()
            self.memory.maintain()
            self.longest = max(self.longest, time.perf_counter() - started)
        if self.number % SNAPSHOT == 0:
            self.memory.snapshot(f"s{self.number}")
            for old in self.memory.snapshots()[:-KEPT]:
                self.memory.delete_snapshot(old.name)

    def batch(self) -> Batch:
        (kind,) = self.random.choices(("come or go", "edited", "moved"), (50, 40, 10)) if self.live else ("come or go",)
        chosen = self.random.choice(sorted(self.live)) if self.live else ""
        if kind == "moved":
            was = self.live[chosen]
            stat = Stat(1, self.number, 1)
            to = place(f"moved/{self.number}")
            return Batch(rehomed=(Rehome(chosen, chosen, to, stat, was.content, Labels()),))
        if kind == "come or go" and len(self.live) > DOCUMENTS:
            del self.live[chosen]
            return Batch(removed=(chosen,))
        name = chosen if kind == "edited" else f"d{self.number}"
        texts = [self.text() for _ in range(self.random.randint(1, 3))]
        self.live[name] = upsert(self.memory, name, *texts, content=f"content {self.number}")
        return Batch(upserts=(self.live[name],))

    def text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=100)) + f" number {self.number}"

    def point(self, seconds: float) -> Point:
        shape = self.memory.vectors.shape(self.memory.generation)
        live = sum(one.vectors.nbytes + sum(len(chunk.text) for chunk in one.chunks) for one in self.live.values())
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Point(
            commits=self.number,
            documents=len(self.live),
            live_mb=live / 1e6,
            disk_mb=sum(path.stat().st_blocks * 512 for path in files) / 1e6,
            rss_mb=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            search_ms=1e3 * statistics.median(self.search() for _ in range(50)),
            commit_ms=1e3 * seconds / EVERY,
            upkeep_ms=1e3 * self.longest,
            versions=shape.versions,
            fragments=shape.fragments,
            segments=shape.segments,
        )

    def search(self) -> float:
        query, started = self.text(), time.perf_counter()
        self.memory.search(query, 10)
        return time.perf_counter() - started


def soak(folder: Path) -> list[Point]:
    with pytest.MonkeyPatch.context() as patch:
        for name, size in CACHES.items():
            patch.setattr(name, size)
        return Soak(folder).run()


@pytest.mark.slow
def test_small_commits_for_long(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        points = pool.submit(soak, scratch).result()
    with capsys.disabled():
        print("\n" + " ".join(f"{field.name:>9}" for field in fields(Point)))
        for point in points:
            print(" ".join(f"{value:9.1f}" if isinstance(value, float) else f"{value:9}" for value in astuple(point)))
    first, second = points[: len(points) // 2], points[len(points) // 2 :]
    assert max(one.disk_mb for one in second) < 1.25 * max(one.disk_mb for one in first)
    assert second[-1].rss_mb < first[-1].rss_mb + 40
    assert min(one.search_ms for one in second) < 2 * min(one.search_ms for one in first)
    assert max(one.versions for one in points) <= maintenance.LATEST_STATES + KEPT + 3 * maintenance.COMMITS
    assert max(one.fragments for one in points) <= upkeep.MOST_FRAGMENTS + 2 * maintenance.COMMITS
    assert max(one.segments for one in points) <= 2 * upkeep.SEGMENTS
