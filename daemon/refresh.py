"""One refresh cycle: collect, build, train, evaluate, decide."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from daemon.citations import MARK
from daemon.quarantine import Quarantine
from daemon.runtime import Runtime
from store.errors import TrainingFailed
from store.types import Ended, Example, Head, Retrieval
from trainers import cycle, gate, lora
from trainers.child import run_child
from trainers.examples import Answered, Recipe, build
from trainers.model import resolve

NEWEST_DOCUMENTS = 200  # whose chunks questions are made from
LATEST_RETRIEVALS = 200
TRAINING_SHARE = 0.6  # of the minutes; the rest is for evaluating
SECONDS_PER_ITEM = 4.0  # to evaluate one item with both models, on two slow cores
MOST_ITEMS = 200

Result = TypeVar("Result")
Json = dict[str, Any]


def refresh(
    runtime: Runtime,
    *,
    trigger: str,
    on_progress: Callable[[Json], None],
    stop: threading.Event,
) -> Json:
    """Learn from the latest retrievals and the newest chunks; let the candidate serve if it passes the gate.

    Anything but a promotion leaves the head as it was. Raises TrainingFailed when there is nothing to learn from or the
    child fails; the run is kept as failed then.
    """
    memory, head, write = runtime.memory, runtime.memory.head(), runtime.write
    run = write(lambda: memory.journal.begin_run(trigger=trigger, move=head.move, incumbent=head.adapter))
    folder = runtime.settings.state_dir / "refresh" / f"{run:04d}"
    try:
        examples = collect(runtime, run)
        if not any(example.split == "train" for example in examples):
            raise TrainingFailed("no questions could be made from the documents yet; ingest more, or ask and judge")
        write(lambda: memory.journal.add_examples(run, examples))
        cycle.write_job(folder, _job(runtime, head), examples)
        evidence = _train_and_evaluate(runtime, folder, on_progress, stop)
        decision = gate.decide(_pairs(evidence), seed=run)
        metrics = {
            "fresh_f1": asdict(decision.evidence["fresh"]),
            "guards": {name: asdict(one) for name, one in decision.evidence.items() if name != "fresh" and one.items},
            "steps": evidence["steps"],
            "first_loss": evidence["losses"][0],
            "last_loss": evidence["losses"][-1],
            "tokens": evidence["tokens"],
            "seconds": evidence["seconds"],
        }
        return write(  # type: ignore[no-any-return]
            lambda: _conclude(runtime, run, folder, head, decision, metrics, len(examples), evidence)
        )
    except Exception as error:
        reason = str(error)
        write(lambda: memory.journal.end_run(Ended(run, "failed", reason)))
        raise
    finally:
        shutil.rmtree(folder / cycle.ADAPTER, ignore_errors=True)  # moved away by then, if it is to be kept


def collect(runtime: Runtime, episode: int) -> list[Example]:
    """The examples of a cycle, split by document. None shows what is in quarantine, be it as a distractor."""
    memory = runtime.memory
    live = sorted(memory.live_at(memory.head()).values(), key=lambda one: (one.ingested_at, one.path), reverse=True)
    quarantine = Quarantine(memory, runtime.settings.refresh.quarantine)
    newest = [one.document_id for one in live if not quarantine.holds(one.document_id)][:NEWEST_DOCUMENTS]
    rank = {document_id: number for number, document_id in enumerate(newest)}
    chunks = sorted(memory.chunks(newest), key=lambda hit: (rank[hit.document_id], hit.position))
    judged = [one for one in memory.journal.judged(LATEST_RETRIEVALS) if not quarantine.touches_answer(one)]
    return build(
        chunks,
        lambda question, k: quarantine.outside(memory.search(question, k).hits),
        [answered for one in judged if (answered := _answered(runtime, one, quarantine))],
        [one for one in memory.journal.examples() if not quarantine.touches_example(one)],
        _recipe(runtime),
        seed=0,
        episode=episode,
    )


def plan(runtime: Runtime, whole: bool = False) -> Json:
    """What a cycle would learn from now, with `whole` each example as it is; learns nothing."""
    examples = collect(runtime, episode=0)
    return {
        **({"whole": [asdict(example) for example in examples]} if whole else {}),
        "dry_run": True,
        "examples": len(examples),
        "counts": dict(Counter(example.split for example in examples)),
        "shown": [
            {key: getattr(example, key) for key in ("split", "kind", "question", "target", "document_id")}
            for example in examples
        ],
    }


def _recipe(runtime: Runtime) -> Recipe:
    """As many items as the budget lets train and evaluate: half of those to evaluate are fresh, the rest guards."""
    settings = runtime.settings.refresh
    items = min(MOST_ITEMS, int(60 * settings.minutes * (1 - TRAINING_SHARE) / SECONDS_PER_ITEM))
    guard = items // 6
    return Recipe(
        train=min(settings.max_steps * lora.Settings().accumulate, 4 * Recipe().train),
        fresh=items // 2,
        anchor=guard,
        noise=guard,
        abstain=guard,
        replay=settings.replay,
        passages=1 + settings.distractors,
    )


def _job(runtime: Runtime, head: Head) -> cycle.Job:
    settings = runtime.settings
    return cycle.Job(
        base=str(resolve(settings.generator.model, runtime.models_dir())),
        incumbent=None if head.adapter is None else str(runtime.memory.adapter_folder(head.adapter)),
        training=lora.Settings(
            rank=settings.refresh.rank,
            max_steps=settings.refresh.max_steps,
            minutes=settings.refresh.minutes * TRAINING_SHARE,
        ),
        max_items=MOST_ITEMS,
        threads=settings.limits.threads or None,
        device=settings.generator.device,
    )


def _train_and_evaluate(
    runtime: Runtime, folder: Path, on_progress: Callable[[Json], None], stop: threading.Event
) -> Mapping[str, Any]:
    limits = runtime.settings.limits
    return run_child(
        folder,
        nice=limits.nice,
        memory_mb=limits.memory_mb or None,
        on_progress=lambda progress: on_progress(dict(progress)),
        stop=stop,
        timeout=60 * runtime.settings.refresh.minutes * 2 + 300,
    )


def _conclude(
    runtime: Runtime,
    run: int,
    folder: Path,
    before: Head,
    decision: gate.Decision,
    metrics: Json,
    examples: int,
    evidence: Mapping[str, Any],
) -> Json:
    """Number the candidate, keep it, and move the head to it if it won. Runs on the thread that writes."""
    memory = runtime.memory
    outcome: str = decision.outcome
    reason = decision.reason
    if memory.head().adapter != before.adapter:
        outcome, reason = "inconclusive", "another adapter began to serve during the cycle; run it again"
    adapter = memory.journal.add_adapter(run, base=runtime.settings.generator.model, sha256=evidence["adapter_sha256"])
    kept = memory.adapter_folder(adapter)
    kept.parent.mkdir(exist_ok=True)
    shutil.rmtree(kept, ignore_errors=True)  # of a run that was killed before its adapter had a row
    os.rename(folder / cycle.ADAPTER, kept)
    how = Ended(run, outcome, reason, adapter, examples, metrics)
    if outcome == "promote":
        memory.promote(adapter, how)
    else:
        memory.journal.end_run(how)
    ended = memory.journal.run(run)
    assert ended.finished_at is not None
    return {
        "run": run,
        "decision": outcome,
        "reason": reason,
        "examples": examples,
        "adapter": adapter,
        "metrics": metrics,
        "seconds": round((ended.finished_at - ended.started_at).total_seconds(), 1),
    }


def _pairs(evidence: Mapping[str, Any]) -> list[gate.Pair]:
    return [
        gate.Pair(item["example_id"], item["set"], item["document_id"], item["candidate"], item["incumbent"])
        for item in evidence["items"]
    ]


def _answered(runtime: Runtime, retrieval: Retrieval, quarantine: Quarantine) -> Answered | None:
    """A judged retrieval as the trainers take it; None when nothing that it found is left and trusted."""
    answer = retrieval.correction or MARK.sub("", retrieval.answer or "").strip()
    hits = quarantine.outside(runtime.memory.by_id([hit["chunk_id"] for hit in retrieval.hits]))
    return Answered(retrieval.query, answer, tuple(hits)) if answer and hits else None
