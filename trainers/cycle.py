"""One training run in a process of its own: `python -m trainers.cycle RUN_DIR`.

Reads RUN_DIR/job.json and RUN_DIR/examples.jsonl. Trains on the examples whose split is train, but for those that are
kept back to tell when to stop, and experts on those of the domains that have enough; these are kept only if with them
it answers the held-out examples better than without. Evaluates the candidate and the incumbent (or the base model) on
the same held-out ones, and writes adapter/ (card last), then evidence.json, which is the sign that the run is whole.
progress.json tells where it is. A run that was killed goes on from its checkpoints and from the answers that it kept.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from store.errors import TrainingFailed
from store.types import Example
from trainers import answers, evaluate, examples, experts, keeping, lora, prompt
from trainers.answers import Answers
from trainers.evaluate import Comparison
from trainers.experts import Expert
from trainers.files import write_json
from trainers.footprint import is_short
from trainers.model import LanguageModel
from trainers.packing import Item, Page, page
from trainers.precision import bf16_pays
from trainers.training import train

JOB = "job.json"
EXAMPLES = "examples.jsonl"
PROGRESS = "progress.json"
ADAPTER = "adapter"
EVIDENCE = "evidence.json"
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINTS = "checkpoint*.safetensors"  # with those of the experts
_PR_SET_PDEATHSIG = 1

Tell = Callable[[str, int, int], None]  # the stage, and how much of how much is done


@dataclass(frozen=True, slots=True)
class Job:
    """What the child is told. The budget of training is `training.minutes`, that of all `minutes`: evaluation is
    bounded by the items given it, and on a slower machine by what is left of these."""

    base: str  # the model's directory, as trainers.model.resolve gave it
    incumbent: str | None = None  # the serving adapter's directory
    start: str | None = None  # the adapter to go on from; None: a new one
    training: lora.Settings = field(default_factory=lora.Settings)
    minutes: float = 60.0
    max_new_tokens: int = 24
    memory_mb: int | None = None  # the cap that the child runs under
    threads: int | None = None
    device: str = "auto"


def write_job(run_dir: Path, job: Job, items: Sequence[Example]) -> None:
    """Make RUN_DIR and put the job and its examples there."""
    run_dir.mkdir(parents=True, exist_ok=True)
    examples.write(run_dir / EXAMPLES, items)
    write_json(run_dir / JOB, asdict(job))


def read_job(run_dir: Path) -> Job:
    """What `write_job` wrote. Raises TrainingFailed when it is something else."""
    try:
        fields: dict[str, Any] = json.loads((run_dir / JOB).read_text())
        training = fields.pop("training")
        return Job(**fields, training=lora.Settings(**{**training, "targets": tuple(training["targets"])}))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingFailed(f"{run_dir / JOB} is no job ({error}); run `memex refresh` again") from None


def run(run_dir: Path) -> None:
    """The whole child. Raises TrainingFailed, MissingModel or Corrupt; what it wrote by then has no evidence.json, and
    another child goes on from it."""
    job, started = read_job(run_dir), time.monotonic()
    given = list(examples.read(run_dir / EXAMPLES))
    tell = partial(_tell, run_dir / PROGRESS, started)
    tell("load", 0, 1)
    model = LanguageModel.load(Path(job.base), job.device, job.threads)
    if job.incumbent and not lora.is_for(Path(job.incumbent), model.fingerprint):
        job = replace(job, incumbent=None, start=None)  # generator.model is another one now: begin anew
    learned = [example for example in given if example.split == "train"]
    taught, kept_back = ([one for one in learned if examples.is_kept_back(one) is back] for back in (False, True))
    groups, back = examples.by_passages(taught), examples.by_passages(kept_back)
    pages, pages_back = ([page([_item(model, one) for one in group]) for group in some] for some in (groups, back))
    short = is_short(model.model, [*pages, *pages_back], job.training.first_layer, job.memory_mb)
    settings = replace(job.training, bf16=bf16_pays(model.model.device), save_memory=short)
    planned = experts.plan(groups)
    before = keeping.remember(model.model, model.tokenizer, settings.first_layer)
    bare = evaluate.arm(model, {})
    lora.prepare(model.model, settings, Path(job.start) if job.start else None, model.fingerprint)
    training = train(
        model.model,
        pages,
        pages_back,
        experts.rest(settings, planned),
        partial(tell, "train"),
        resume=run_dir / CHECKPOINT,
        kept=before,
    )
    sha256 = lora.save(model.model, run_dir / ADAPTER, settings)
    made = experts.train_experts(
        model.model,
        planned,
        _by_home(groups, pages),
        _by_home(back, pages_back),
        settings,
        run_dir / ADAPTER,
        run_dir / CHECKPOINT,
        before,
        tell,
    )
    lora.finish(model.model, settings)
    began, until = time.monotonic(), started + 60 * job.minutes
    kept = Answers(run_dir.parent / answers.FILE)
    compare = partial(
        evaluate.compare,
        model,
        held_out=[example for example in given if example.split != "train"],
        kept=kept,
        max_new_tokens=job.max_new_tokens,
        seed=job.training.seed,
    )
    candidate = evaluate.arm(model, {lora.SHARED: lora.Attached(lora.CANDIDATE, sha256)})
    tried = None
    if made:  # the same items choose and judge then: equal models pass in about 6 cycles of 100 instead of 5
        mixture = evaluate.arm(model, {**candidate.attached, **{domain: one.attached for domain, one in made.items()}})
        half = (began + until) / 2
        tried = compare(mixture, candidate, until=half, progress=partial(tell, "evaluate experts")).decision
        if tried.outcome == "promote":
            candidate = mixture
        else:
            shutil.rmtree(run_dir / ADAPTER / lora.EXPERTS)
    incumbent = lora.attach(model.model, Path(job.incumbent), model.fingerprint) if job.incumbent else {}
    # General text is held against the bare model: what every cycle may lose of it would add up.
    result = compare(candidate, replace(bare, attached=incumbent), until=until, progress=partial(tell, "evaluate"))
    evaluating = time.monotonic() - began
    experts_kept = {domain: one for domain, one in made.items() if domain in candidate.attached}
    lora.write_card(run_dir / ADAPTER, settings, _card(job, model.fingerprint, taught, kept_back, experts_kept, result))
    trainings = [training, *(one.training for one in made.values())]
    evidence = {
        **_evidence(result),
        "experts": tried and {"decision": tried.outcome, "reason": tried.reason, "domains": planned},
        "examples": len(given),
        "warm": job.start is not None,
        "incumbent": job.incumbent,
        "adapter_sha256": sha256,
        "losses": training.losses,
        "checks": training.checks,
        "steps": len(training.losses),
        "best_step": training.best,
        "trained_on": len(taught),
        "kept_back": len(kept_back),
        "tokens": sum(one.tokens for one in trainings),
        "seconds": {"train": sum(one.seconds for one in trainings), "evaluate": evaluating},
        "seconds_per_answer": evaluating / kept.added if kept.added >= evaluate.AT_ONCE else None,
    }
    write_json(run_dir / EVIDENCE, evidence)
    tell("done", 1, 1)


def _card(
    job: Job,
    fingerprint: str,
    taught: Sequence[Example],
    kept_back: Sequence[Example],
    kept: Mapping[str, Expert],
    result: Comparison,
) -> dict[str, Any]:
    """What an adapter's card says of where it comes from: the examples that it was trained on, and all documents that
    it or what it went on from learned from, be it only when to stop."""
    learned = [*taught, *kept_back]
    earlier = lora.read_card(Path(job.start))["documents"] if job.start else []
    shown = {passage.document_id for example in learned for passage in example.passages}
    asked = {example.document_id for example in learned}  # a question may repeat a sentence of a passage left out
    return {
        "kind": "generator",
        "base": {"name": Path(job.base).name, "sha256": fingerprint},
        "start": job.start and Path(job.start).name,
        "episode": max((example.episode for example in learned), default=0),
        "examples": [example.example_id for example in taught],
        "documents": sorted({*shown, *asked, *earlier}),
        "metrics": evaluate.summary(result.candidate),
        lora.EXPERTS: {
            domain: {"folder": one.folder, "sha256": one.attached.sha256, "examples": one.examples}
            for domain, one in kept.items()
        },
    }


def _evidence(result: Comparison) -> dict[str, Any]:
    """The comparison item by item, and what follows from it."""
    arms = {"candidate": result.candidate, "incumbent": result.incumbent}
    return {
        "items": [
            {
                "example_id": new.example_id,
                "set": new.set,
                "document_id": new.document_id,
                "episode": new.episode,
                "candidate": new.value,
                "incumbent": old.value,
                "candidate_text": new.text,
                "incumbent_text": old.text,
            }
            for new, old in zip(result.candidate, result.incumbent, strict=True)
        ],
        "decision": asdict(result.decision),
        "summary": {arm: evaluate.summary(scores) for arm, scores in arms.items()},
        "episodes": {arm: evaluate.by_episode(scores) for arm, scores in arms.items()},
    }


def _by_home(groups: Sequence[Sequence[Example]], pages: Sequence[Page]) -> dict[str, list[Page]]:
    """The pages of the groups, by the domain that they teach."""
    found: dict[str, list[Page]] = {}
    for group, one in zip(groups, pages, strict=True):
        found.setdefault(experts.home(group), []).append(one)
    return found


def _item(model: LanguageModel, example: Example) -> Item:
    asked = model.encode(prompt.messages(example.question, example.passages))
    return Item(tuple(asked), tuple(model.encode_answer(example.target)), example.weight)


def _tell(path: Path, started: float, stage: str, done: int, total: int) -> None:
    seconds = round(time.monotonic() - started, 1)
    write_json(path, {"stage": stage, "done": done, "total": total, "seconds": seconds})


def limit(nice: int, memory_mb: int | None, parent: int) -> None:
    """Lower this process's priority, cap its memory and tie its life to its parent's (the last two on Linux)."""
    os.nice(nice)
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above took hold
        sys.exit("the parent process is gone")
    if memory_mb is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb << 20, memory_mb << 20))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainers.cycle", description="One training run.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--memory-mb", type=int)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end when this process ends")
    given = parser.parse_args()
    limit(given.nice, given.memory_mb, given.parent)
    run(given.run_dir)


if __name__ == "__main__":
    main()
