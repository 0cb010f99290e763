"""One training run in a process of its own: `python -m trainers.cycle RUN_DIR`.

Reads RUN_DIR/job.json and RUN_DIR/examples.jsonl. Trains on the examples whose split is train, evaluates the candidate
and the incumbent (or the base model) on the same held-out ones, and writes adapter/ (card last), then
evidence.json, which is the sign that the run is whole. progress.json tells where it is. A run that was killed goes on
from checkpoint.safetensors and from the answers that it kept.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from store.types import Example
from trainers import answers, evaluate, examples, gate, keeping, lora, prompt
from trainers.answers import Answers
from trainers.evaluate import Score
from trainers.files import write_json
from trainers.model import LanguageModel
from trainers.packing import Item, page
from trainers.precision import bf16_pays
from trainers.training import train

JOB = "job.json"
EXAMPLES = "examples.jsonl"
PROGRESS = "progress.json"
ADAPTER = "adapter"
EVIDENCE = "evidence.json"
CHECKPOINT = "checkpoint.safetensors"
KEPT_BACK = 12  # one page of so many is not trained on, and says when to stop
SHORT_MB = 3000  # what training a small model with its activations kept takes, and a bit
_PR_SET_PDEATHSIG = 1

Tell = Callable[[str, int, int], None]  # the stage, and how much of how much is done


@dataclass(frozen=True, slots=True)
class Job:
    """What the child is told. `minutes` is the budget of training; evaluation is bounded by the items given it."""

    base: str  # the model's directory, as trainers.model.resolve gave it
    incumbent: str | None = None  # the serving adapter's directory
    start: str | None = None  # the adapter to go on from; None: a new one
    training: lora.Settings = field(default_factory=lora.Settings)
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
    fields: dict[str, Any] = json.loads((run_dir / JOB).read_text())
    training = fields.pop("training")
    return Job(**fields, training=lora.Settings(**{**training, "targets": tuple(training["targets"])}))


def run(run_dir: Path) -> None:
    """The whole child. Raises TrainingFailed, MissingModel or Corrupt; what it wrote by then has no evidence.json, and
    another child goes on from it."""
    job = read_job(run_dir)
    given = list(examples.read(run_dir / EXAMPLES))
    tell = partial(_tell, run_dir / PROGRESS, time.monotonic())
    tell("load", 0, 1)
    model = LanguageModel.load(Path(job.base), job.device, job.threads)
    settings = replace(job.training, bf16=bf16_pays(model.model.device), save_memory=_is_short(job.memory_mb))
    learned = [example for example in given if example.split == "train"]
    pages = [page([_item(model, example) for example in group]) for group in examples.by_passages(learned)]
    kept_back = len(pages) // KEPT_BACK
    before = keeping.remember(model)
    lora.prepare(model.model, settings, Path(job.start) if job.start else None, model.fingerprint)
    training = train(
        model.model,
        pages[kept_back:],
        pages[:kept_back],
        settings,
        partial(tell, "train"),
        resume=run_dir / CHECKPOINT,
        kept=before,
    )
    lora.finish(model.model, settings)
    sha256 = lora.save(model.model, run_dir / ADAPTER, settings)
    began = time.monotonic()
    candidate, incumbent, decision = _judge(model, job, sha256, given, Answers(run_dir.parent / answers.FILE), tell)
    earlier = lora.read_card(Path(job.start))["documents"] if job.start else []
    lora.write_card(
        run_dir / ADAPTER,
        settings,
        {
            "kind": "generator",
            "base": {"name": Path(job.base).name, "sha256": model.fingerprint},
            "start": job.start and Path(job.start).name,
            "episode": max((example.episode for example in learned), default=0),
            "examples": [example.example_id for example in learned],
            "documents": sorted({*_documents(learned), *earlier}),
            "metrics": evaluate.summary(candidate),
        },
    )
    evidence = {
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
            for new, old in zip(candidate, incumbent, strict=True)
        ],
        "decision": asdict(decision),
        "summary": {"candidate": evaluate.summary(candidate), "incumbent": evaluate.summary(incumbent)},
        "episodes": {"candidate": evaluate.by_episode(candidate), "incumbent": evaluate.by_episode(incumbent)},
        "examples": len(given),
        "warm": job.start is not None,
        "incumbent": job.incumbent,
        "adapter_sha256": sha256,
        "losses": training.losses,
        "held_out": training.held_out,
        "steps": len(training.losses),
        "best_step": training.best,
        "trained_on": len(learned),
        "tokens": training.tokens,
        "seconds": {"train": training.seconds, "evaluate": time.monotonic() - began},
    }
    write_json(run_dir / EVIDENCE, evidence)
    tell("done", 1, 1)


def _documents(shown: Sequence[Example]) -> set[str]:
    return {passage.document_id for example in shown for passage in example.passages}


def _judge(
    model: LanguageModel, job: Job, candidate_key: str, given: Sequence[Example], kept: Answers, tell: Tell
) -> tuple[list[Score], list[Score], gate.Decision]:
    """The scores of candidate and incumbent on the same items, and the decision: looked at a few times on the way
    (`gate.LOOKS`), and no further than it takes to be certain."""
    arms: dict[str, tuple[str, str | None]] = {
        "candidate": (candidate_key, lora.CANDIDATE),
        "incumbent": (model.fingerprint, None),
    }
    if job.incumbent:
        incumbent = Path(job.incumbent)
        attached = lora.attach(model.model, incumbent, model.fingerprint)
        arms["incumbent"] = (lora.read_card(incumbent)["sha256"], attached)
    scores: dict[str, list[Score]] = {}
    for arm, (_, name) in arms.items():
        lora.activate(model.model, name)
        scores[arm] = evaluate.general(model)
    pages = examples.by_passages(_mixed([example for example in given if example.split != "train"]))
    total = 2 * sum(map(len, pages))
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        tell("evaluate", done, total)

    seen = 0
    for share, level in gate.LOOKS:
        upto = round(share * len(pages))
        block = [example for one in pages[seen:upto] for example in one]
        seen = upto
        for arm, (key, name) in arms.items():
            lora.activate(model.model, name)
            scores[arm] += evaluate.answer(model, key, block, kept, job.max_new_tokens, count)
        decision = gate.decide(_pairs(scores["candidate"], scores["incumbent"]), seed=job.training.seed, level=level)
        if gate.is_certain(decision):
            break
    return scores["candidate"], scores["incumbent"], decision


def _pairs(candidate: Sequence[Score], incumbent: Sequence[Score]) -> list[gate.Pair]:
    return [
        gate.Pair(new.example_id, new.set, new.document_id, new.value, old.value)
        for new, old in zip(candidate, incumbent, strict=True)
    ]


def _mixed(held_out: Sequence[Example]) -> list[Example]:
    """In an order in which each part has its share of every set, pages kept together."""
    return sorted(held_out, key=lambda example: hashlib.sha256(repr(example.passages).encode()).digest())


def _item(model: LanguageModel, example: Example) -> Item:
    asked = model.encode(prompt.messages(example.question, example.passages))
    return Item(tuple(asked), tuple(model.encode_answer(example.target)), example.weight)


def _is_short(memory_mb: int | None) -> bool:
    """Whether activations are better computed twice than kept."""
    return memory_mb is not None and memory_mb < SHORT_MB


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
