"""A clock that jumps or stands still: names and versions answer as before, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from store.errors import NotFound
from store.memory import Memory
from tests.store.conftest import Clock, remember, texts

JUMPS = (timedelta(days=-400), timedelta(days=-1), timedelta(days=36500), timedelta(seconds=-1))


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_jump_loses_nothing(
    jump: timedelta, memory: Memory, open_memory: Callable[..., Memory], clock: Clock
) -> None:
    remember(memory, a="alpha")
    memory.snapshot("before")
    clock.now += jump
    remember(memory, a="beta", b="gamma")
    memory.snapshot("after")
    versions = [memory.state(name).head.version for name in ("before", "after")]
    back = memory.roll_back("before")
    clock.now -= 2 * jump
    memory.roll_back(back.safety)
    memory.close()
    again = open_memory()
    states = [{"a": ["alpha"]}, {"a": ["beta"], "b": ["gamma"]}]
    for name, version, expected in zip(("before", "after"), versions, states, strict=True):
        assert texts(again, name) == texts(again, str(version)) == expected
    assert texts(again) == states[1]
    assert {one.name for one in again.snapshots()} >= {"before", "after", back.safety}


def test_what_is_asked_for_by_time_is_what_served_by_the_clock_of_then(memory: Memory, clock: Clock) -> None:
    start = clock.now
    remember(memory, a="first")
    clock.now = start + timedelta(days=10)
    remember(memory, a="dated ahead")
    clock.now = start + timedelta(days=1)  # it was wrong, and is set back
    remember(memory, a="second")
    clock.now = start + timedelta(days=2)
    assert texts(memory, "1 second ago") == texts(memory) == {"a": ["second"]}
    assert texts(memory, (start + timedelta(hours=1)).isoformat()) == {"a": ["first"]}
    with pytest.raises(NotFound, match="memory begins after"):
        memory.state((start - timedelta(days=1)).isoformat())


def test_a_clock_that_stands_still(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "clock", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    names = [memory.snapshot().name for _ in range(3)]
    remember(memory, a="alpha")
    names += [memory.roll_back(names[0]).safety for _ in range(3)]
    assert len(set(names)) == 6
    memory.roll_back(names[3])
    assert texts(memory) == {"a": ["alpha"]}
