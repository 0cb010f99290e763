"""The questions' side of retrieval learns too: a part of each refresh cycle, with a candidate and a gate of its own.

What is compared is what serves: candidate and incumbent search the same version by the way that the settings ask for.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from daemon.collecting import answered
from daemon.evaluation.questions import Question
from daemon.evaluation.retrieval import key_of, look
from daemon.quarantine import Quarantine
from daemon.runtime import Runtime
from store import query_adapter
from store.errors import MemexError, Stopping, TrainingFailed
from store.types import Head, Hit, State
from trainers import retriever
from trainers.files import write_json
from trainers.gate import FRESH
from trainers.lora import read_card
from trainers.metrics import ndcg, recall
from trainers.retriever import NEAR, RECALL, Asked, Lesson, Trained, is_held_out
from trainers.sources import digest, find

NEWEST, OTHERS = 200, 200  # documents that questions are made about: the newest, and of the rest always the same
MOST = 200  # questions to learn from, and as many to judge by
CUT = 10  # the ranks that count
FORGOTTEN = "something that it learned from was forgotten meanwhile; the next cycle begins anew"
EVIDENCE = "query.json"  # item by item, in the run's folder

Json = dict[str, Any]


def tune(runtime: Runtime, run: int, folder: Path, on_progress: Callable[[Json], None], stop: threading.Event) -> None:
    """Train a query adapter, compare it with what serves, let it serve if it passes its gate; keep what became of it in
    the run's metrics as `query`. Takes less than a minute of one slow core; with a reranker, its time for each of 600
    searches more.

    What goes wrong is kept there too: the cycle's other part stands, whatever becomes of this one.
    """
    if stop.is_set():
        return
    started = time.perf_counter()
    on_progress({"stage": "query adapter", "done": 0, "total": 1})
    try:
        told = _tune(runtime, run, folder, stop)
    except Stopping:
        return
    except (MemexError, OSError) as error:
        told = {"decision": "failed", "reason": str(error)}
    told["seconds"] = round(time.perf_counter() - started, 1)
    runtime.write(lambda: _conclude(runtime, run, told))


def _tune(runtime: Runtime, run: int, folder: Path, stop: threading.Event) -> Json:
    """What was decided and why. Raises Stopping once `stop` says so."""
    memory, settings = runtime.memory, runtime.settings
    if settings.retrieval.mode == "text":
        return {"decision": "inconclusive", "reason": 'retrieval.mode = "text" searches without vectors'}
    head, quarantine = memory.head(), Quarantine(memory, settings.refresh.quarantine)
    learned, asked = questions(runtime, quarantine, head)
    start = head.query_adapter if settings.refresh.warm_start else None
    begin = None if start is None else query_adapter.load(memory.adapter_folder(start), memory.embedder.fingerprint)
    taught, documents = lessons(runtime, quarantine, head, learned, stop)
    trained = retriever.train(taught, start=begin)
    told: Json = {"incumbent": head.query_adapter, "learned": len(learned), "asked": len(asked)}
    if trained is None:
        few = f"{len(learned)} questions are too few to learn from (at least {retriever.LEAST}, of several documents)"
        return {**told, "decision": "inconclusive", "reason": few}
    told |= {"best_step": trained.step, "first_loss": trained.first_loss, "best_loss": trained.best_loss}
    if trained.step == 0:
        return {**told, "decision": "reject", "reason": "no better: training found nothing that helps other documents"}
    number = runtime.write(lambda: _keep(runtime, run, folder, head, trained, documents, start))
    candidate, incumbent = (measured(runtime, head, asked, one, stop) for one in (number, head.query_adapter))
    pairs = retriever.compared(asked, candidate, incumbent)
    decision = retriever.decide(pairs)
    folder.mkdir(parents=True, exist_ok=True)  # none where the generator's part had nothing to do
    write_json(folder / EVIDENCE, [asdict(pair) for pair in pairs])
    names = {FRESH: "ndcg", RECALL: "recall"}
    shown = {names[name]: asdict(one) for name, one in decision.evidence.items() if one.items}
    return {**told, "adapter": number, "decision": decision.outcome, "reason": decision.reason, **shown}


def questions(runtime: Runtime, quarantine: Quarantine, head: Head) -> tuple[list[Asked], list[Asked]]:
    """Questions to learn from and questions to judge by, about different documents: those with an answer that someone
    said, then made ones. A passage that is taught is not asked for, also where another document has it."""
    memory = runtime.memory
    live = sorted(memory.live_at(head).values(), key=lambda one: (one.ingested_at, one.path), reverse=True)
    trusted = [one.document_id for one in live if not quarantine.holds(one.document_id)]
    chosen = [*trusted[:NEWEST], *sorted(trusted[NEWEST:], key=digest)[:OTHERS]]
    chunks = memory.chunks(chosen, head)

    def search(question: str, k: int) -> Sequence[Hit]:
        return quarantine.outside(memory.search(question, k, when=State(head)).hits)

    said = answered(runtime, quarantine, search)
    of_sides = []
    for held in (False, True):
        side = frozenset(one for one in trusted if is_held_out(one) is held)
        confirmed = find([], side, search, said, MOST, words=1, k=CUT, seed=0)
        rights = {hit.chunk_id: hit for hit in memory.by_id([one.passage.chunk_id for one in confirmed], head)}
        known = {
            one.question: Asked(one.question, right, right.text, one.weight)
            for one in confirmed
            if (right := rights.get(one.passage.chunk_id))
        }
        made = retriever.made((hit for hit in chunks if hit.document_id in side), 2 * MOST)  # some are taken out below
        of_sides.append([*known.values(), *(one for one in made if one.text not in known)])
    learned, asked = of_sides[0][:MOST], of_sides[1]
    taught = {one.right.text for one in learned} | {one.text for one in learned}
    return learned, [one for one in asked if not {one.right.text, one.text} & taught][:MOST]


def lessons(
    runtime: Runtime, quarantine: Quarantine, head: Head, learned: Sequence[Asked], stop: threading.Event
) -> tuple[list[Lesson], list[str]]:
    """Each question with the vectors of its right passage and of what is found beside it, in documents of its side; and
    the ids of all documents that are learned from."""
    memory = runtime.memory
    near: list[list[Hit]] = []
    for one in learned:
        _check_going_on(stop)
        hits = quarantine.outside(memory.search(one.text, 2 * NEAR, when=State(head)).hits)
        wrong = [hit for hit in hits if not is_held_out(hit.document_id) and not _is_right(hit, one)]
        near.append(wrong[:NEAR])
    shown = [*(one.right for one in learned), *(hit for hits in near for hit in hits)]
    vectors = memory.vectors.vectors(head.generation, head.version, {hit.chunk_id for hit in shown}) if shown else {}
    made = [
        Lesson(
            document_id=one.right.document_id,
            question=memory.queries.plain(one.text),
            right=vectors[one.right.chunk_id],
            near=tuple(vectors[hit.chunk_id] for hit in hits),
            weight=one.weight,
        )
        for one, hits in zip(learned, near, strict=True)
    ]
    return made, sorted({hit.document_id for hit in shown})


def measured(
    runtime: Runtime, head: Head, asked: Sequence[Asked], adapter: int | None, stop: threading.Event
) -> list[tuple[float, float]]:
    """nDCG@10 and recall@10 of each question, searched by a query adapter or without one."""
    state, found = State(replace(head, query_adapter=adapter)), []
    for one in asked:
        _check_going_on(stop)
        looked = look(runtime.memory, _question(one), state)
        found.append((ndcg(looked.ranking, looked.relevant, CUT), recall(looked.ranking, looked.relevant, CUT)))
    return found


def _check_going_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopping("stopped before the query adapter was judged")


def _question(one: Asked) -> Question:
    return Question(one.text, passages=(one.passage,))


def _is_right(hit: Hit, one: Asked) -> bool:
    return hit.chunk_id == one.right.chunk_id or key_of(hit, _question(one)).startswith("passage ")


def _keep(
    runtime: Runtime, run: int, folder: Path, head: Head, trained: Trained, documents: Sequence[str], start: int | None
) -> int:
    """Number the candidate and put its files where it may serve from. On the thread that writes, where nothing is
    forgotten meanwhile. Raises TrainingFailed when something that it learned from was forgotten before."""
    memory = runtime.memory
    if memory.live_at(head, documents).keys() < set(documents):
        raise TrainingFailed(FORGOTTEN)
    earlier = [] if start is None else read_card(memory.adapter_folder(start))["documents"]
    base, made = memory.embedder.fingerprint, folder / "query"
    card = {
        "base": base,
        "run": run,
        "start": start,
        "documents": sorted({*documents, *earlier}),
        "settings": asdict(retriever.Settings()),
        "step": trained.step,
        "losses": [trained.first_loss, trained.best_loss],
        "versions": {library: version(library) for library in ("numpy", "safetensors")},
    }
    sha256 = query_adapter.save(made, trained.adapter, card)
    number = memory.journal.add_query_adapter(run, base=base, sha256=sha256, documents=documents, start=start)
    kept = memory.adapter_folder(number)
    kept.parent.mkdir(exist_ok=True)
    shutil.rmtree(kept, ignore_errors=True)  # of a run that was killed before its adapter had a row
    os.rename(made, kept)
    return number


def _conclude(runtime: Runtime, run: int, told: Json) -> None:
    """Let a candidate that won serve, and keep what was decided. On the thread that writes."""
    memory = runtime.memory
    if told["decision"] == "promote":
        if memory.head().query_adapter != told["incumbent"]:
            why = "another query adapter began to serve during the cycle; run it again"
            told |= {"decision": "inconclusive", "reason": why}
        elif told["adapter"] not in memory.journal.adapters():
            told |= {"decision": "failed", "reason": FORGOTTEN}
        else:
            memory.promote_query(told["adapter"], run, told)
            return
    memory.journal.note_query(run, told)
