"""What a learning cycle learns from: judged answers, given questions, the newest chunks, earlier cycles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from daemon.evaluation.questions import from_file, plain, right_answer, right_ones, taken_back
from daemon.quarantine import Quarantine
from daemon.runtime import Runtime
from daemon.settings import Control
from store.types import Example, Hit
from trainers import gate, lora
from trainers.examples import Recipe, asked_to_learn, build, is_kept_back, sides
from trainers.pages import Layout
from trainers.prompt import ABSENT, is_absent
from trainers.sources import DENIED, Answered, Search

NEWEST_DOCUMENTS = 200  # whose chunks questions are made from
LATEST_RETRIEVALS = 200
TRAINING_SHARE = 0.7  # of the minutes; the rest is for evaluating
SECONDS_PER_ANSWER = 0.75  # of one model to one item of evaluation, on two slow cores; each item takes two
PACES = 1.25  # what it took here counts as the next slower of paces so far apart: nearly the same asks the same
SECONDS_PER_EXAMPLE = 0.5  # to train on it once, on two slow cores
FRESH_SHARE = 2 / 5  # of the items to evaluate; each of three guards has half as many, or it could not tell its margin
EPOCHS = 3  # that the training examples are planned for
MOST_ITEMS = 400
LATEST_WEIGHT = 2.0  # of the newest judged answer; the oldest that is taken counts as much as a made question

Json = dict[str, Any]


def collect(runtime: Runtime, episode: int, control: Control | None = None) -> list[Example]:
    """The examples of a cycle, split by document. None shows what is in quarantine, be it as a distractor. None has an
    answer that was called bad when it was given last; what users found no answer to is there while that is their last
    word on it.

    A control leaves something out: `padding` has new examples in the place of those of earlier cycles, `no-replay`
    nothing, `no-distractors` trains on the right passage alone.
    """
    memory, quarantine = runtime.memory, Quarantine(runtime.memory, runtime.settings.refresh.quarantine)
    live = sorted(memory.live_at(memory.head()).values(), key=lambda one: (one.ingested_at, one.path), reverse=True)
    newest = [one.document_id for one in live if not quarantine.holds(one.document_id)][:NEWEST_DOCUMENTS]
    rank = {document_id: number for number, document_id in enumerate(newest)}
    chunks = sorted(memory.chunks(newest), key=lambda hit: (rank[hit.document_id], hit.position))

    def search(question: str, k: int) -> Sequence[Hit]:
        return quarantine.outside(memory.search(question, k).hits)

    earlier = memory.journal.examples()
    said = answered(runtime, quarantine, search)
    made = build(
        chunks,
        search,
        said,
        [one for one in earlier if not quarantine.touches_example(one)],
        sides(earlier),  # of what is in quarantine too: its neighbours stay where they were
        asked_to_learn(earlier),
        recipe(runtime, control),
        seed=0,
        episode=episode,
    )
    wrong, denied = taken_back(memory), {one.question for one in said if is_absent(one.answer)}

    def stands(one: Example) -> bool:
        if one.kind == DENIED:
            return one.question in denied
        return one.gold is None or (one.question, plain(one.target)) not in wrong

    return [one for one in made if stands(one)]


def has_news(runtime: Runtime, runs: Collection[int]) -> bool:
    """Whether a cycle would learn or be judged by an answer, or that there is none, that none of these cycles had."""
    made = [one for one in collect(runtime, episode=0) if one.episode == 0]
    now = {(one.question, one.target) for one in made if one.gold is not None or one.kind == DENIED}
    return not now <= {(one.question, one.target) for one in runtime.memory.journal.examples() if one.episode in runs}


def recipe(runtime: Runtime, control: Control | None = None) -> Recipe:
    """As many items as the budget lets train and evaluate."""
    settings = runtime.settings.refresh
    seconds = 60 * settings.minutes * (1 - TRAINING_SHARE)
    hoped = seconds / (2 * SECONDS_PER_ANSWER)
    # No fewer than a decision takes, if a slow machine is all that forbids it: twice the minutes may do.
    items = int(min(MOST_ITEMS, max(seconds / _seconds_per_item(runtime), min(hoped, gate.LEAST_ITEMS / FRESH_SHARE))))
    train = min(
        settings.max_steps * lora.Settings().batch,
        int(60 * settings.minutes * TRAINING_SHARE / SECONDS_PER_EXAMPLE / EPOCHS),
    )
    fresh = round(items * FRESH_SHARE)
    made = Recipe(
        train=max(train, 1),
        fresh=fresh,
        anchor=fresh // 2,
        noise=fresh // 2,
        abstain=fresh // 2,
        replay=settings.replay,
        layout=Layout(passages=1 + settings.distractors),
    )
    if control == "padding":
        return replace(made, replay=0.0)
    if control == "no-replay":
        return replace(made, replay=0.0, train=round(made.train * (1 - made.replay)))
    return replace(made, alone=True) if control == "no-distractors" else made


def power(runtime: Runtime, made: Sequence[Example]) -> str:
    """What a cycle can find out with these examples, said before it trains on them."""
    fresh = [one for one in made if one.split == gate.FRESH]
    items, documents, settings = len(fresh), len({one.document_id for one in fresh}), runtime.settings.refresh
    told = f"{items} fresh items from {documents} documents"
    if items < gate.LEAST_ITEMS or documents < gate.LEAST_DOCUMENTS:
        least = f"at least {gate.LEAST_ITEMS} from {gate.LEAST_DOCUMENTS}"
        return f"{told} are too few to tell ({least}): ingest more, or raise refresh.minutes"
    told += f" show a gain of {gate.detectable(items):.2f} with {gate.POWER:.0%} chance"
    needed = gate.items_for(settings.min_gain)
    if items >= needed:
        return told
    if items < recipe(runtime).fresh:
        return f"{told}; for {settings.min_gain:g} (refresh.min_gain) ingest more: it takes {needed}"
    if needed > MOST_ITEMS * FRESH_SHARE:
        return f"{told}; {settings.min_gain:g} takes {needed}, more than a cycle asks: raise refresh.min_gain"
    minutes = needed / FRESH_SHARE * _seconds_per_item(runtime) / 60 / (1 - TRAINING_SHARE)
    return f"{told}; for {settings.min_gain:g} (refresh.min_gain) set refresh.minutes = {math.ceil(minutes)}"


def _seconds_per_item(runtime: Runtime) -> float:
    """To evaluate one with both models: as the last cycle took that tells, a bit more rather than less."""
    told = (run.metrics.get("seconds_per_answer") for run in runtime.memory.journal.runs())
    took = next(filter(None, told), SECONDS_PER_ANSWER)
    paces = math.ceil(math.log(took / SECONDS_PER_ANSWER, PACES) - 1e-9)
    return 2 * SECONDS_PER_ANSWER * PACES**paces


def plan(runtime: Runtime, whole: bool = False) -> Json:
    """What a cycle would learn from now, with `whole` each example as it is; learns nothing."""
    examples = collect(runtime, episode=0)
    return {
        **({"whole": [asdict(example) for example in examples]} if whole else {}),
        "dry_run": True,
        "examples": len(examples),
        "counts": dict(Counter(map(_role, examples))),
        "power": power(runtime, examples),
        "shown": [
            {"split": _role(one)} | {key: getattr(one, key) for key in ("kind", "question", "target", "document_id")}
            for one in examples
        ],
    }


def _role(example: Example) -> str:
    return "kept back" if example.split == "train" and is_kept_back(example) else example.split


def answered(runtime: Runtime, quarantine: Quarantine, search: Search) -> list[Answered]:
    """The questions whose answer someone said, each with the latest one: of judged retrievals, then those of a file.
    Raises UsageError."""
    said: dict[str, Answered] = {}
    for one in (*_judged(runtime, quarantine), *_given(runtime, search)):
        said.setdefault(one.question, one)
    return list(said.values())


def _judged(runtime: Runtime, quarantine: Quarantine) -> list[Answered]:
    """Judged retrievals of which something that they found is left and trusted; the newest come first and weigh the
    most."""
    found = []
    judged = [one for one in right_ones(runtime.memory, LATEST_RETRIEVALS) if not quarantine.touches_answer(one)]
    for age, one in enumerate(judged):
        answer = right_answer(one)
        hits = quarantine.outside(runtime.memory.by_id([hit["chunk_id"] for hit in one.hits]))
        if answer and hits:
            weight = 1 + (LATEST_WEIGHT - 1) * (1 - age / LATEST_RETRIEVALS)
            found.append(Answered(one.query, answer, tuple(hits), weight=weight))
    return found


def _given(runtime: Runtime, search: Search) -> list[Answered]:
    """The questions of the file that `refresh.questions` names, with what is found for them. Raises UsageError."""
    if not runtime.settings.refresh.questions:
        return []
    asked = from_file(Path(runtime.settings.refresh.questions), []).questions
    k = Recipe().k
    return [
        Answered(one.text, (one.answers or (ABSENT,))[0], tuple(search(one.text, k)), "given", also=one.answers[1:])
        for one in asked
        if one.answers is not None
    ]
