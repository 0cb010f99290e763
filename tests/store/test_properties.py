"""The store against a plain model of it: whatever is done in whatever order, the invariants of the design hold."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.store import machine, witness

EXAMPLE = 50  # steps of one
SLOW_ENOUGH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
PATHS = {happened for happened, _ in witness.SPIED.values()} | {"forgotten"}
CUTS = {
    *(*machine.COMMIT, *machine.SNAPSHOT, *machine.DELETE, *machine.PRUNE),
    *(*machine.ROLLBACK, *machine.MAINTAIN, *machine.FORGET),
}

# Met a few times in 50,000 steps, as a kill or as an error but not always as both: the one takes a table of which most
# is deleted, or a fragment that what is forgotten shares with others; the other a table that has something to tidy just
# then (`test_maintenance.py` tries both on it).
RARE = {"store.vectors.upkeep.rewrite", "store.maintenance.heads.move_head"}


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


def check_in_shares(shares: int, steps: int, phases: tuple[Phase, ...]) -> tuple[Counter[str], str]:
    """On all processors, `steps` in each share: what happened, also in words. In CI the same steps each time."""
    started, first = time.perf_counter(), 0 if "CI" in os.environ else random.randrange(2**32)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        running = [pool.submit(check, steps, first + share * steps, phases) for share in range(shares)]
        try:
            met = sum((share.result() for share in as_completed(running)), Counter[str]())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    seconds = time.perf_counter() - started
    happened = ", ".join(f"{one} {met[one]}" for one in sorted(met) if one != "steps")
    return met, f"\n{met['steps']} steps in {seconds:.0f} s, {met['steps'] / seconds:.1f} a second: {happened}"


def test_the_store_is_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    """What fails is printed as found; shrinking it takes minutes and is left to the longer test."""
    met, told = check_in_shares(2, 1000, (Phase.generate,))
    with capsys.disabled():
        print(told)
    assert met["steps"] >= 2000
    assert all(met[path] for path in PATHS)


@pytest.mark.slow
def test_the_store_is_its_model_at_length(capsys: pytest.CaptureFixture[str]) -> None:
    met, told = check_in_shares(10, 5000, (Phase.generate, Phase.shrink))
    with capsys.disabled():
        print(told)
    assert met["steps"] >= 50_000
    assert all(met[path] for path in PATHS)
    assert {cut for cut in CUTS if met[f"killed at {cut}"] or met[f"failed at {cut}"]} == CUTS
    assert {cut for cut in CUTS if met[f"killed at {cut}"] and met[f"failed at {cut}"]} >= CUTS - RARE
