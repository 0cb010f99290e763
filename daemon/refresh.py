"""One refresh cycle: collect, build, train, evaluate, decide."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from daemon.collecting import TRAINING_SHARE, Json, collect, has_news, power
from daemon.quarantine import Quarantine
from daemon.query_tuning import FORGOTTEN, tune
from daemon.runtime import Runtime
from daemon.settings import Control
from store.errors import MemexError, MissingModel, TrainingFailed
from store.types import Ended, Example, Head, Run
from trainers import cycle, examples, experts, lora
from trainers.child import run_child
from trainers.model import first_layer, resolve

CONTROL = "control"
RESUMED = "resumed"  # a byte for each time that a cycle was gone on with
DECIDED = ("promote", "reject", "inconclusive")
MOST_TIMES = 2  # the minutes of the settings, in all: after these the child decides by what it has
OVERTIME_SECONDS = 300.0  # and after these it is ended
KEPT_CYCLES = 30  # the newest, of which all is kept; of older ones what served, and what the catalogue says
MOST_RESUMES = 3  # what memex itself dies of shall not be tried at every start


def refresh(
    runtime: Runtime,
    *,
    trigger: str,
    on_progress: Callable[[Json], None],
    stop: threading.Event,
    control: Control | None = None,
) -> Json:
    """Learn from the latest retrievals and the newest chunks; let the candidate serve if it passes the gate. Then the
    same for the questions' side of retrieval (see `query_tuning`).

    Anything but a promotion leaves the head as it was, and so does a control, whatever it finds. A cycle that was
    stopped or killed is gone on with. Raises TrainingFailed when there is nothing to learn from or the child fails; the
    run is kept as failed then.
    """
    memory, head, write = runtime.memory, runtime.memory.head(), runtime.write
    run, folder = _begun(runtime, f"{CONTROL} {control}" if control else trigger, head, control)
    on_progress({"stage": "collect", "done": 0, "total": 1})
    try:
        write(lambda: _let_go(runtime, run - KEPT_CYCLES))
        if not (folder / cycle.JOB).is_file():
            made = _prepare(runtime, run, folder, head, control)
            on_progress({"stage": f"collect ({power(runtime, made)})", "done": 1, "total": 1})
        if control == "aa":
            _train_the_other(runtime, folder, on_progress, stop)
        evidence = _train_and_evaluate(runtime, folder, on_progress, stop)
        if control:
            return write(lambda: _note_control(runtime, run, control, evidence))  # type: ignore[no-any-return]
        write(lambda: _conclude(runtime, run, folder, head, evidence))
    except Exception as error:
        if control or not stop.is_set():
            reason = str(error)
            write(lambda: memory.journal.end_run(Ended(run, "failed", reason)))
        if not control:  # the questions' side may have something to learn where the generator has not
            tune(runtime, run, folder, on_progress, stop)
        raise
    finally:
        if control:
            shutil.rmtree(folder, ignore_errors=True)
        elif memory.journal.run(run).finished_at:  # else the next start goes on with it
            shutil.rmtree(folder / cycle.ADAPTER, ignore_errors=True)  # moved away by then, if it is to be kept
            for checkpoint in folder.glob(cycle.CHECKPOINTS):
                checkpoint.unlink()
    tune(runtime, run, folder, on_progress, stop)
    return _result(runtime, run)


def _begun(runtime: Runtime, trigger: str, head: Head, control: Control | None) -> tuple[int, Path]:
    """The run that a kill cut off and that can be gone on with; else a new one. A control leaves that run alone."""
    memory, write = runtime.memory, runtime.write
    cut_off = resumable(runtime)
    for other in memory.journal.interrupted():
        if other == cut_off:
            continue
        why = _lost(runtime, other) or "a newer one is gone on with"
        shutil.rmtree(folder_of(runtime, other.run), ignore_errors=True)
        write(partial(memory.journal.end_run, Ended(other.run, "failed", f"memex ended during the cycle; {why}")))
    if cut_off and not control:
        folder = folder_of(runtime, cut_off.run)
        with (folder / RESUMED).open("ab") as times:
            times.write(b".")
        return cut_off.run, folder
    run = write(lambda: memory.journal.begin_run(trigger=trigger, move=head.move, incumbent=head.adapter))
    return run, folder_of(runtime, run)


def resumable(runtime: Runtime) -> Run | None:
    """The newest cycle that a kill cut off and that can be gone on with."""
    return next((cut for cut in runtime.memory.journal.interrupted() if not _lost(runtime, cut)), None)


def nothing_new_since(runtime: Runtime) -> int | None:
    """The latest cycle, where one now would learn and be judged by the same, and win by chance alone. None: it would
    not, or what that one left is forgotten, in quarantine or trained otherwise by now, or a fault is for a cycle to
    find."""
    memory = runtime.memory
    runs = [one for one in memory.journal.runs() if one.decision in DECIDED]
    with suppress(OSError, MemexError):
        job = _job(runtime, memory.head())
        alike = [one.run for one in runs if _was_for(job, folder_of(runtime, one.run))]
        if not alike or alike[0] != runs[0].run or resumable(runtime) or _is_undone(runtime, runs[0]):
            return None
        return None if has_news(runtime, alike) else alike[0]
    return None


def _is_undone(runtime: Runtime, run: Run) -> bool:
    """Whether what a cycle left, in either part, is no more, or should not be."""
    left = run.adapter if run.decision == "promote" else run.incumbent
    return (
        (left is not None and left not in runtime.memory.journal.adapters())
        or run.metrics.get("query", {}).get("decision") not in DECIDED
        or _learns_from_quarantine(runtime, folder_of(runtime, run.run))
    )


def _was_for(job: cycle.Job, folder: Path) -> bool:
    """Whether the cycle in the folder trained the same model in the same way. Raises TrainingFailed."""
    if not (folder / cycle.JOB).is_file():
        return False
    was = cycle.read_job(folder)
    return (was.base, was.training) == (job.base, job.training)


def _lost(runtime: Runtime, cut: Run) -> str | None:
    """Why a cycle that a kill cut off cannot be gone on with; None: it can."""
    folder = folder_of(runtime, cut.run)
    if cut.trigger.startswith(CONTROL):
        return "a control is begun anew"
    if cut.incumbent != runtime.memory.head().adapter:
        return "what it compares with serves no more"
    if not (folder / cycle.JOB).is_file():
        return "it had no examples yet"
    resumed = folder / RESUMED
    if resumed.is_file() and resumed.stat().st_size >= MOST_RESUMES:
        return f"it was gone on with {MOST_RESUMES} times, and cut off each time"
    if _is_of_another_model(runtime, folder):
        return "it was for another generator.model"
    if _learns_from_quarantine(runtime, folder):
        return "it learned from what is in quarantine now"
    return None


def _is_of_another_model(runtime: Runtime, folder: Path) -> bool:
    with suppress(TrainingFailed, MissingModel):  # the child says what is wrong, and no more than MOST_RESUMES times
        model = resolve(runtime.settings.generator.model, runtime.models_dir())
        return cycle.read_job(folder).base != str(model)
    return False


def _learns_from_quarantine(runtime: Runtime, folder: Path) -> bool:
    patterns = runtime.settings.refresh.quarantine
    quarantine = Quarantine(runtime.memory, patterns)
    return bool(patterns) and any(map(quarantine.touches_example, examples.read(folder / cycle.EXAMPLES)))


def folder_of(runtime: Runtime, run: int) -> Path:
    return runtime.settings.state_dir / "refresh" / f"{run:04d}"


def _prepare(runtime: Runtime, run: int, folder: Path, head: Head, control: Control | None) -> list[Example]:
    """Put the run's examples into the catalogue, and with its job into its folder. Raises TrainingFailed."""
    forgotten = runtime.memory.forgotten
    made = collect(runtime, run, control)
    if not any(example.split == "train" for example in made):
        raise TrainingFailed("no questions could be made from the documents yet; ingest more, or ask and judge")
    if control:  # of the shared adapter alone, or one side would have experts
        made = experts.undivided(made)
    job = _job(runtime, head)

    def keep() -> None:  # on the thread that writes, where nothing is forgotten meanwhile
        if runtime.memory.forgotten != forgotten:
            raise TrainingFailed(FORGOTTEN)
        if not control:  # what a control shows is no part of what was learned
            runtime.memory.journal.add_examples(run, made)
        cycle.write_job(folder, job, made)

    runtime.write(keep)
    return made


def _job(runtime: Runtime, head: Head) -> cycle.Job:
    settings, memory = runtime.settings, runtime.memory
    incumbent = None if head.adapter is None else str(memory.adapter_folder(head.adapter))
    base = resolve(settings.generator.model, runtime.models_dir())
    training = lora.Settings(
        rank=settings.refresh.rank,
        targets=settings.refresh.targets,
        first_layer=first_layer(base, settings.refresh.layers),
        max_steps=settings.refresh.max_steps,
        minutes=settings.refresh.minutes * TRAINING_SHARE,
    )
    warm = incumbent is not None and settings.refresh.warm_start and lora.has_shape(Path(incumbent), training)
    return cycle.Job(
        base=str(base),
        incumbent=incumbent,
        start=incumbent if warm else None,  # settings of another shape begin a new one
        training=training,
        minutes=settings.refresh.minutes * MOST_TIMES,
        memory_mb=settings.limits.memory_mb or None,
        threads=settings.limits.threads or None,
        device=settings.generator.device,
    )


def _train_and_evaluate(
    runtime: Runtime, folder: Path, on_progress: Callable[[Json], None], stop: threading.Event
) -> Mapping[str, Any]:
    limits, minutes = runtime.settings.limits, cycle.read_job(folder).minutes
    return run_child(
        folder,
        nice=limits.nice,
        memory_mb=limits.memory_mb or None,
        on_progress=lambda progress: on_progress(dict(progress)),
        stop=stop,
        timeout=60 * minutes + OVERTIME_SECONDS,
    )


def _train_the_other(
    runtime: Runtime, folder: Path, on_progress: Callable[[Json], None], stop: threading.Event
) -> None:
    """Of an A/A control: train what the candidate is compared with, the same but for the seed."""
    job = cycle.read_job(folder)
    other, given = folder / "other", list(examples.read(folder / cycle.EXAMPLES))
    learned = [example for example in given if example.split == "train"]
    cycle.write_job(other, replace(job, training=replace(job.training, seed=job.training.seed + 1)), learned)
    _train_and_evaluate(runtime, other, on_progress, stop)
    cycle.write_job(folder, replace(job, incumbent=str(other / cycle.ADAPTER)), given)


def _let_go(runtime: Runtime, latest: int) -> None:
    """Of cycles up to this one remove the adapters that never served, and the evidence."""
    for adapter in runtime.memory.journal.retire_candidates(before=latest + 1):
        shutil.rmtree(runtime.memory.adapter_folder(adapter), ignore_errors=True)
    for run in range(1, latest + 1):
        shutil.rmtree(folder_of(runtime, run), ignore_errors=True)


def _note_control(runtime: Runtime, run: int, control: Control, evidence: Mapping[str, Any]) -> Json:
    """A control changes nothing, whatever its gate says."""
    decision = evidence["decision"]
    reason = f"the gate would {decision['outcome']}: {decision['reason']}"
    metrics = {**_metrics(evidence), "control": control, "outcome": decision["outcome"]}
    runtime.memory.journal.end_run(Ended(run, "control", reason, None, evidence["examples"], metrics))
    return _result(runtime, run)


def _conclude(runtime: Runtime, run: int, folder: Path, before: Head, evidence: Mapping[str, Any]) -> None:
    """Number the candidate, keep it, and move the head to it if it won. Runs on the thread that writes. Raises
    TrainingFailed when something that it learned, or what it went on from did, was forgotten."""
    memory = runtime.memory
    retired = before.adapter is not None and before.adapter not in memory.journal.adapters()
    if retired or not (folder / cycle.ADAPTER).is_dir():  # forgetting removes the folder of a run that shows it
        raise TrainingFailed(FORGOTTEN)
    outcome: str = evidence["decision"]["outcome"]
    reason: str = evidence["decision"]["reason"]
    if memory.head().adapter != before.adapter:
        outcome, reason = "inconclusive", "another adapter began to serve during the cycle; run it again"
    adapter = memory.journal.add_adapter(
        run,
        base=runtime.settings.generator.model,
        sha256=evidence["adapter_sha256"],
        start=before.adapter if evidence["warm"] else None,
    )
    kept = memory.adapter_folder(adapter)
    kept.parent.mkdir(exist_ok=True)
    shutil.rmtree(kept, ignore_errors=True)  # of a run that was killed before its adapter had a row
    os.rename(folder / cycle.ADAPTER, kept)
    how = Ended(run, outcome, reason, adapter, evidence["examples"], _metrics(evidence))
    if outcome == "promote":
        memory.promote(adapter, how)
    else:
        memory.journal.end_run(how)


def _metrics(evidence: Mapping[str, Any]) -> Json:
    sets = evidence["decision"]["evidence"]
    return {
        "fresh_f1": sets["fresh"],
        "guards": {name: one for name, one in sets.items() if name != "fresh" and one["items"]},
        "episodes": evidence["episodes"],
        "steps": evidence["steps"],
        "best_step": evidence["best_step"],
        "first_loss": evidence["losses"][0],
        "last_loss": evidence["losses"][-1],
        "tokens": evidence["tokens"],
        "seconds": evidence["seconds"],
        **({"seconds_per_answer": pace} if (pace := evidence["seconds_per_answer"]) else {}),
        **({"experts": evidence["experts"]} if evidence["experts"] else {}),
    }


def _result(runtime: Runtime, run: int) -> Json:
    ended = runtime.memory.journal.run(run)
    assert ended.finished_at is not None
    return {
        "run": run,
        "decision": ended.decision,
        "reason": ended.reason,
        "examples": ended.examples,
        "adapter": ended.adapter,
        "metrics": ended.metrics,
        "seconds": round((ended.finished_at - ended.started_at).total_seconds(), 1),
    }
