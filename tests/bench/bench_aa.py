"""A/A cycles: two adapters that go on from the same one and differ by their seed alone, judged by the gate as ever.

Whatever wins here wins by chance: what they go on from has learned what there is to learn, or the luckier seed would be
the better adapter. The items are cheap, two short passages each, and all are fresh: no guard helps the gate to say no.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from store.types import Example, Hit
from tests.bench.bench_learning import MODELS, remembered
from trainers import cycle, lora
from trainers.child import run_child
from trainers.examples import Recipe, build
from trainers.model import resolve
from trainers.pages import Layout

CYCLES = 20
CHEAP = Recipe(
    train=64,
    fresh=48,
    anchor=0,
    noise=0,
    abstain=0,
    layout=Layout(2, spread=False, words=15, absent=0.0, adversarial=0.0),
)


def run(quick: bool = False) -> dict[str, Any]:
    """How the gate decided; each cycle has its own split, questions and seeds. `quick`: two cycles."""
    base = str(resolve("default", MODELS))
    outcomes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as folder, remembered(["sklearn"], 200) as runtime:
        memory = runtime.memory
        chunks = memory.chunks(sorted(memory.live_at(memory.head())))

        def search(question: str, k: int) -> Sequence[Hit]:
            return memory.search(question, k).hits

        start = Path(folder) / "start"
        training = lora.Settings(max_steps=20 if quick else 80, minutes=20.0)
        learned = build(chunks, search, recipe=replace(CHEAP, train=160, fresh=0))
        cycle.write_job(start, cycle.Job(base=base, training=training), learned)
        run_child(start)
        for number in range(2 if quick else CYCLES):
            examples = build(chunks, search, recipe=CHEAP, seed=number, episode=number)
            job = cycle.Job(
                base=base,
                start=str(start / cycle.ADAPTER),
                training=replace(training, max_steps=8, seed=2 * number),
            )
            outcomes.append(_cycle(Path(folder) / f"{number:02d}", job, examples))
            print(f"  A/A cycle {number}: {outcomes[-1]}", flush=True)
    return {
        "aa_cycles": len(outcomes),
        "aa_promoted": outcomes.count("promote"),
        "aa_rejected": outcomes.count("reject"),
        "aa_inconclusive": outcomes.count("inconclusive"),
    }


def _cycle(folder: Path, job: cycle.Job, examples: list[Example]) -> str:
    """The gate's outcome on an adapter against its twin."""
    other = folder / "other"
    learned = [example for example in examples if example.split == "train"]
    cycle.write_job(other, replace(job, training=replace(job.training, seed=job.training.seed + 1)), learned)
    run_child(other)
    cycle.write_job(folder, replace(job, incumbent=str(other / cycle.ADAPTER)), examples)
    return str(run_child(folder)["decision"]["outcome"])
