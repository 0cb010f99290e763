"""One training run in a process of its own: `python -m trainers.cycle RUN_DIR`.

Reads RUN_DIR/job.json and RUN_DIR/examples.jsonl. Trains on the examples whose split is train, evaluates the candidate
and the incumbent (or the base model) on the same held-out ones, and writes adapter/ (card last), then
evidence.json, which is the sign that the run is whole. progress.json tells where it is.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from store.types import Example
from trainers import evaluate, examples, lora, prompt
from trainers.files import write_json
from trainers.model import LanguageModel

JOB = "job.json"
EXAMPLES = "examples.jsonl"
PROGRESS = "progress.json"
ADAPTER = "adapter"
EVIDENCE = "evidence.json"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What the child is told. `minutes` is the budget of training; evaluation is bounded by the items given it."""

    base: str  # the model's directory, as trainers.model.resolve gave it
    incumbent: str | None = None  # the serving adapter's directory
    training: lora.Settings = field(default_factory=lora.Settings)
    max_new_tokens: int = 24
    batch: int = 8  # chats evaluated at once
    max_items: int = 32  # evaluated per set
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
    """The whole child. Raises TrainingFailed, MissingModel or Corrupt; what it wrote by then has no evidence.json."""
    job = read_job(run_dir)
    given = list(examples.read(run_dir / EXAMPLES))
    started = time.monotonic()

    def progress(stage: str) -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            seconds = round(time.monotonic() - started, 1)
            write_json(run_dir / PROGRESS, {"stage": stage, "done": done, "total": total, "seconds": seconds})

        tell(0, 0)
        return tell

    tell = progress("load")
    model = LanguageModel.load(Path(job.base), job.device, job.threads)
    tell(1, 1)
    learned = [example for example in given if example.split == "train"]
    items = [
        lora.Item(
            tuple(model.encode(prompt.messages(example.question, example.passages))),
            tuple(model.encode_answer(example.target)),
        )
        for example in learned
    ]
    training = lora.train(model.model, items, job.training, progress("train"))
    held_out = _capped([example for example in given if example.split != "train"], job.max_items)
    began = time.monotonic()
    candidate = evaluate.evaluate(model, held_out, job.max_new_tokens, job.batch, progress("evaluate candidate"))
    card = lora.save(
        model.model,
        run_dir / ADAPTER,
        job.training,
        {
            "base": {"name": Path(job.base).name, "sha256": model.fingerprint},
            "examples": [example.example_id for example in learned],
            "documents": sorted({passage.document_id for example in learned for passage in example.passages}),
            "metrics": evaluate.summary(candidate),
        },
    )
    model.use_adapter(Path(job.incumbent) if job.incumbent else None)
    incumbent = evaluate.evaluate(model, held_out, job.max_new_tokens, job.batch, progress("evaluate incumbent"))
    evidence = {
        "items": [
            {
                "example_id": new.example_id,
                "set": new.set,
                "document_id": new.document_id,
                "candidate": new.value,
                "incumbent": old.value,
                "candidate_text": new.text,
                "incumbent_text": old.text,
            }
            for new, old in zip(candidate, incumbent, strict=True)
        ],
        "summary": {"candidate": evaluate.summary(candidate), "incumbent": evaluate.summary(incumbent)},
        "incumbent": job.incumbent,
        "adapter_sha256": card["sha256"],
        "losses": training.losses,
        "steps": len(training.losses),
        "trained_on": len(learned),
        "tokens": training.tokens,
        "seconds": {"train": training.seconds, "evaluate": time.monotonic() - began},
    }
    write_json(run_dir / EVIDENCE, evidence)
    progress("done")(1, 1)


def _capped(held_out: Sequence[Example], limit: int) -> list[Example]:
    """At most `limit` examples of each set, the first ones."""
    kept: dict[str, list[Example]] = {}
    for example in held_out:
        group = kept.setdefault(example.split, [])
        if len(group) < limit:
            group.append(example)
    return [example for group in kept.values() for example in group]


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
