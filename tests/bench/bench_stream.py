"""Learning over time: a stream of episodes, each the docstrings of another library, one refresh after each.

A third of each library's documents are never learned from (a source in quarantine); questions on them are asked of the
base model, with the best of a few prompts (one shows it answered questions), and of what serves after each cycle, with
the same passages. The figures are those of the stream as a whole: F1, what distractors take away, abstention, what
later cycles undid, general text.
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
from store.types import Example, Filters, Passage
from tests.bench.bench_learning import MODELS
from tests.bench.corpus import docstrings
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
SHOWN = (
    (
        "Fill in the blank: The ferry leaves the harbour at ____.",
        ("The market opens on Monday.", "In summer the ferry leaves the harbour at six in the morning."),
        "six in the morning",
    ),
    ("What is a lens?", ("A lens is a piece of glass that bends light to one point.",), "a piece of glass"),
    ("What is the value of timeout?", ("timeout: 30 seconds", "retries: 5 times"), "30 seconds"),
)


@dataclass(frozen=True, slots=True)
class Asking:
    """How the base model is asked: an instruction, and whether it is shown three answered questions first."""

    instruction: str
    shown: bool = False

    def messages(self, question: str, passages: Sequence[Passage]) -> list[dict[str, str]]:
        chat: list[dict[str, str]] = []
        with mock.patch.object(prompt, "INSTRUCTION", self.instruction):
            for asked, texts, answer in SHOWN if self.shown else ():
                chat += AS_TRAINED(asked, [Passage("", "", text) for text in texts])
                chat.append({"role": "assistant", "content": answer})
            return chat + AS_TRAINED(question, passages)


AS_TRAINED = prompt.messages
ASKINGS = (
    Asking(prompt.INSTRUCTION),
    Asking("Answer the question from the passages above in a few words."),
    Asking("Copy the words from the passages above that answer the question. Write nothing else."),
    Asking("Answer the question from the passages above in as few words as possible, copied from a passage.", True),
)


@dataclass(frozen=True, slots=True)
class Episode:
    """The questions on the documents that are only asked about: among four passages, alone, among five, and laid out
    anew among five with one more that misleads, in words that no cycle trains on."""

    fresh: list[Example]
    clean: list[Example]
    noisy: list[Example]
    misled: list[Example]


def run(quick: bool = False) -> dict[str, Any]:
    """`quick`: two episodes with a third of the documents and less time."""
    libraries, part, minutes = (LIBRARIES[:2], 3, 5.0) if quick else (LIBRARIES, 1, Refresh().minutes)
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
        for at, (name, text) in enumerate(docstrings(library, documents)):
            folder = self.tested if at % TESTED == 0 else self.docs
            (folder / f"{number}-{name}.md").write_text(text)
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
        fresh, clean, noisy, misled = (
            [example for one in self.episodes for example in getattr(one, kind)]
            for kind in ("fresh", "clean", "noisy", "misled")
        )
        asking = self._best_asking(fresh)
        old, new = (self._answers(fresh, which, asking) for which in (base, last))
        gain = _difference(fresh, new, fresh, old)
        drop_base, drop_last = (
            _difference(clean, self._answers(clean, which, asking), noisy, self._answers(noisy, which, asking))
            for which in (base, last)
        )
        led_base, led_last = (
            _difference(noisy, self._answers(noisy, which, asking), misled, self._answers(misled, which, asking))
            for which in (base, last)
        )
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
            "stream_drop_over_base": drop_last.difference / drop_base.difference,
            "stream_drop_base": drop_base.difference,
            "stream_drop_base_lower": drop_base.lower,
            "stream_drop_base_upper": drop_base.upper,
            "stream_drop_last": drop_last.difference,
            "stream_drop_last_lower": drop_last.lower,
            "stream_drop_last_upper": drop_last.upper,
            "stream_lost_share_base": drop_base.difference / drop_base.candidate,
            "stream_lost_share_last": drop_last.difference / drop_last.candidate,
            "stream_misled_base": led_base.difference,
            "stream_misled_last": led_last.difference,
            "stream_misled_last_lower": led_last.lower,
            "stream_misled_last_upper": led_last.upper,
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

        def laid_out(passages: int, absent: float = 0.0, adversarial: float = 0.0) -> list[Example]:
            layout = Layout(passages=passages, spread=False, absent=absent, adversarial=adversarial)
            return pages(found, room, layout, "fresh", 0, number)

        return Episode(laid_out(4, absent=0.25), laid_out(1), laid_out(5), laid_out(5, adversarial=1.0))

    def _serving(self) -> Path | None:
        adapter = self.runtime.memory.head().adapter
        return None if adapter is None else self.runtime.memory.adapter_folder(adapter)

    def _answers(self, asked: Sequence[Example], adapter: Path | None, asking: Asking = ASKINGS[0]) -> list[Score]:
        """The base model is asked as `asking` says, an adapter as it was trained."""
        self.model.use_adapter(adapter)
        asking = ASKINGS[0] if adapter else asking
        key = f"{lora.read_card(adapter)['sha256'] if adapter else 'base'}:{asking}"
        with mock.patch.object(prompt, "messages", asking.messages):
            return evaluate.answer(self.model, key, asked, self.kept, NEW_TOKENS)

    def _best_asking(self, asked: Sequence[Example]) -> Asking:
        """The one with the best F1 of the base model on the very questions that count: in its favour."""
        return max(ASKINGS, key=lambda one: _f1(self._answers(asked, None, one)))


def _difference(
    some: Sequence[Example], scores: Sequence[Score], others: Sequence[Example], their_scores: Sequence[Score]
) -> gate.Evidence:
    """How much better the first scores are, question by question, with bounds at 95% each."""

    def key(one: Example) -> tuple[str, str, bool]:
        return one.document_id, one.question, one.gold is None

    theirs = {key(one): score.value for one, score in zip(others, their_scores, strict=True)}
    pairs = [
        gate.Pair(score.example_id, score.set, score.document_id, score.value, theirs[key(one)])
        for one, score in zip(some, scores, strict=True)
    ]
    return gate.decide(pairs, level=0.05).evidence["fresh"]


def _f1(scores: Sequence[Score], which: str = "fresh") -> float:
    return mean([one.value for one in scores if one.set == which]) or 0.0
