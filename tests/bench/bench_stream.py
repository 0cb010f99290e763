"""Learning over time: a stream of episodes, each the docstrings of another library, one refresh after each.

A third of each library's documents are never learned from (a source in quarantine); questions on them are asked of the
base model, with the best of a few prompts, and of what serves after each cycle, with the same passages. The figures are
those of the stream as a whole: F1, what distractors take away, abstention, what later cycles undid, general text.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from daemon.refresh import refresh
from daemon.runtime import Runtime
from daemon.settings import Generator, Refresh, Settings, Source
from store.types import Example, Filters
from tests.bench.bench_learning import LONG, MODELS
from tests.bench.corpus import references
from trainers import evaluate, gate, lora, prompt
from trainers.answers import Answers
from trainers.evaluate import Score
from trainers.metrics import mean
from trainers.model import LanguageModel, resolve
from trainers.pages import Layout, Room, pages
from trainers.sources import find

LIBRARIES = ("networkx", "sklearn", "scipy", "torch", "")  # "": the standard library
DOCUMENTS = 150
TESTED = 3  # one document of so many is only asked about
QUESTIONS = 32  # on each episode
NEW_TOKENS = 24
PROMPTS = (
    prompt.INSTRUCTION,
    "Answer the question from the passages above in a few words.",
    "Copy the words from the passages above that answer the question. Write nothing else.",
)


@dataclass(frozen=True, slots=True)
class Episode:
    """The questions on the documents that are only asked about: among four passages, alone, and among five."""

    fresh: list[Example]
    clean: list[Example]
    noisy: list[Example]


def run(quick: bool = False) -> dict[str, Any]:
    """`quick`: two episodes with a third of the documents and less time."""
    libraries, part, minutes = (LIBRARIES[:2], 3, 5.0) if quick else (LIBRARIES, 1, 14.0)
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as folder:
        stream = _Stream(Path(folder), minutes)
        try:
            for number, library in enumerate(libraries):
                stream.live_through(number, library, DOCUMENTS // part, QUESTIONS // part)
            return stream.figures()
        finally:
            stream.runtime.close()


class _Stream:
    def __init__(self, folder: Path, minutes: float) -> None:
        self.docs, self.tested = folder / "docs", folder / "tested"
        for one in (self.docs, self.tested):
            one.mkdir()
        settings = Settings(
            state_dir=folder / "state",
            sources=(Source(path=self.docs), Source(path=self.tested)),
            generator=Generator(model=str(resolve("default", MODELS))),
            refresh=Refresh(minutes=minutes, quarantine=("source:tested",)),
        )
        self.runtime = Runtime(settings, write=True)
        self.kept = Answers(folder / "bench-answers.jsonl")
        self.model = LanguageModel.load(resolve("default", MODELS), "cpu")
        self.base = evaluate.general(self.model)
        self.episodes: list[Episode] = []
        self.cycles: list[dict[str, Any]] = []
        self.matrix: list[list[float]] = []  # a row after each cycle, F1 on each episode so far

    def live_through(self, number: int, library: str, documents: int, questions: int) -> None:
        """New documents, a cycle, and all questions so far."""
        texts = [(name, text) for name, text in references(library) if LONG[0] < len(text) < LONG[1]][:documents]
        for at, (name, text) in enumerate(texts):
            folder = self.tested if at % TESTED == 0 else self.docs
            (folder / f"{number}-{name}.md").write_text(f"# {name}\n\n{text}\n")
        self.runtime.synchronise(list(self.runtime.settings.sources))
        self.episodes.append(self._episode(number, questions))
        done = refresh(self.runtime, trigger="bench", on_progress=lambda _: None, stop=threading.Event())
        self.cycles.append(done)
        print(f"  episode {number} ({library or 'stdlib'}): {done['decision']}, {done['reason']}", flush=True)
        print(f"    {done['seconds']:.0f} s, {done['metrics']['tokens']} tokens", flush=True)
        self.matrix.append([_f1(self._answers(one.fresh, self._serving())) for one in self.episodes])
        print(f"    F1 on each episode: {', '.join(f'{value:.3f}' for value in self.matrix[-1])}", flush=True)

    def figures(self) -> dict[str, Any]:
        base, last = None, self._serving()
        fresh, clean, noisy = (
            [example for one in self.episodes for example in getattr(one, kind)] for kind in ("fresh", "clean", "noisy")
        )
        instruction = self._best_prompt(fresh)
        old, new = (self._answers(fresh, which, instruction) for which in (base, last))
        pairs = [gate.Pair(a.example_id, a.set, a.document_id, b.value, a.value) for a, b in zip(old, new, strict=True)]
        gain = gate.decide(pairs, level=0.05).evidence["fresh"]
        drops = {
            which: _f1(self._answers(clean, which, instruction)) - _f1(self._answers(noisy, which, instruction))
            for which in (base, last)
        }
        self.model.use_adapter(last)
        general = evaluate.general(self.model)
        absent, present = ([one for one in new if (one.set == "abstain") is missing] for missing in (True, False))
        rows = self.matrix
        moved = [rows[-1][one] - rows[one][one] for one in range(len(rows) - 1)]
        return {
            "stream_base_f1": gain.incumbent,
            "stream_last_f1": gain.candidate,
            "stream_gain": gain.difference,
            "stream_gain_lower": gain.lower,
            "stream_gain_upper": gain.upper,
            "stream_drop_over_base": drops[last] / drops[base] if drops[base] > 0 else float("nan"),
            "stream_drop_base": drops[base],
            "stream_drop_last": drops[last],
            "stream_abstains_when_absent": mean([one.value for one in absent]),
            "stream_false_refusals": mean([float(one.absent) for one in present]),
            "stream_backward_transfer": mean(moved),
            "stream_general_rise": _f1(self.base, "general") - _f1(general, "general"),
            "stream_promoted": sum(one["decision"] == "promote" for one in self.cycles),
            "stream_longest_cycle_seconds": max(one["seconds"] for one in self.cycles),
            "stream_tokens_per_cycle": mean([one["metrics"]["tokens"] for one in self.cycles]),
        }

    def _episode(self, number: int, questions: int) -> Episode:
        memory = self.runtime.memory
        ours = Filters(source="tested", path=f"**/{number}-*")

        def search(question: str, k: int) -> Sequence[Any]:
            return memory.search(question, k, filters=ours).hits

        live = memory.live_at(memory.head()).values()
        mine = sorted(one.document_id for one in live if f"/tested/{number}-" in one.path)
        room = Room(memory.chunks(mine), frozenset(mine))
        found = find(room.pool, room.side, search, (), questions, words=Layout().words, k=8, seed=0)

        def laid_out(passages: int, absent: float = 0.0) -> list[Example]:
            return pages(found, room, Layout(passages=passages, absent=absent, adversarial=0.0), "fresh", 0, number)

        return Episode(laid_out(4, absent=0.25), laid_out(1), laid_out(5))

    def _serving(self) -> Path | None:
        adapter = self.runtime.memory.head().adapter
        return None if adapter is None else self.runtime.memory.adapter_folder(adapter)

    def _answers(
        self, asked: Sequence[Example], adapter: Path | None, instruction: str = prompt.INSTRUCTION
    ) -> list[Score]:
        """The base model is asked with `instruction`, an adapter with what it was trained on."""
        self.model.use_adapter(adapter)
        instruction = prompt.INSTRUCTION if adapter else instruction
        key = f"{lora.read_card(adapter)['sha256'] if adapter else 'base'}:{instruction}"
        with mock.patch.object(prompt, "INSTRUCTION", instruction):
            return evaluate.answer(self.model, key, asked, self.kept, NEW_TOKENS)

    def _best_prompt(self, asked: Sequence[Example]) -> str:
        """The one with the best F1 of the base model on the very questions that count: in its favour."""
        return max(PROMPTS, key=lambda one: _f1(self._answers(asked, None, one)))


def _f1(scores: Sequence[Score], which: str = "fresh") -> float:
    return mean([one.value for one in scores if one.set == which]) or 0.0
