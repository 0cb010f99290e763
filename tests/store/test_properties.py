"""The store against a plain model of it: whatever is done in whatever order, the invariants of the design hold."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.store import machine, witness

EXAMPLE = 50  # steps of one
SLOW_ENOUGH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
PATHS = {happened for happened, _ in witness.SPIED.values()} | {"forgotten"}
CUTS = {*machine.COMMIT, *machine.SNAPSHOT, *machine.DELETE, *machine.ROLLBACK, *machine.MAINTAIN, *machine.FORGET}


def check(steps: int, number: int, phases: tuple[Phase, ...]) -> Counter[str]:
    """Take as many steps or a few more; returns what happened how often. The same number takes the same ones."""
    with witness.small() as met:
        while met["steps"] < steps:  # some examples end early
            chosen = settings(
                max_examples=-(-(steps - met["steps"]) // EXAMPLE),
                stateful_step_count=EXAMPLE + 1,  # the first begins
                phases=phases,
                deadline=None,
                database=None,
                print_blob=True,
                suppress_health_check=SLOW_ENOUGH,
            )
            run_state_machine_as_test(seed(number)(machine.StoreMachine), settings=chosen)
            number += 1
    return met


def first_number() -> int:
    """In CI the same steps each time, elsewhere new ones."""
    return 0 if "CI" in os.environ else random.randrange(2**32)


def tell(capsys: pytest.CaptureFixture[str], met: Counter[str], started: float) -> None:
    seconds = time.perf_counter() - started
    with capsys.disabled():
        print(f"\n{met['steps']} steps, {met['steps'] / seconds:.1f} a second:")
        print(", ".join(f"{happened} {met[happened]}" for happened in sorted(met) if happened != "steps"))


def test_the_store_is_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    """What fails is printed as found; shrinking it takes minutes and is left to the longer test."""
    started = time.perf_counter()
    met = check(2000, first_number(), (Phase.generate,))
    tell(capsys, met, started)
    assert met["steps"] >= 2000
    assert all(met[path] for path in PATHS)


@pytest.mark.slow
def test_the_store_is_its_model_at_length(capsys: pytest.CaptureFixture[str]) -> None:
    """On all processors; in shares, as a run of hypothesis gets slower the more it remembers."""
    started, first = time.perf_counter(), first_number()
    phases = (Phase.generate, Phase.shrink)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        shares = [pool.submit(check, 5000, first + 1000 * share, phases) for share in range(10)]
        met = sum((share.result() for share in shares), Counter[str]())
    tell(capsys, met, started)
    assert met["steps"] >= 50_000
    assert all(met[path] for path in PATHS)
    assert {cut for cut in CUTS if met[f"killed at {cut}"] and met[f"failed at {cut}"]} == CUTS
