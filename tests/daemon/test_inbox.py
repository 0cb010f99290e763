"""What the writer has to do, and in which order."""

from __future__ import annotations

import threading
import time

import pytest

from daemon.inbox import Inbox
from daemon.ingest import Dirty
from store.errors import Stopping

A, B, C = (Dirty("docs", name) for name in (b"a", b"b", b"c"))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(clock: Clock) -> Inbox:
    return Inbox(clock)


def test_a_path_is_due_once_it_has_been_quiet(inbox: Inbox, clock: Clock) -> None:
    inbox.mark(A, 1.0)
    clock.now += 0.9
    assert inbox.take_fresh(9) == []
    inbox.mark(A, 1.0)  # written again
    clock.now += 0.9
    assert inbox.take_fresh(9) == []
    clock.now += 0.2
    assert inbox.take_fresh(9) == [A]
    assert inbox.take_fresh(9) == []


def test_marking_twice_is_marking_once(inbox: Inbox) -> None:
    inbox.mark(A, 0.0)
    inbox.mark(A, 0.0)
    inbox.fill([A, B, B])
    assert len(inbox) == 2
    assert inbox.take_fresh(9) == [A]
    assert inbox.take_backfill(9) == [B]


def test_what_changes_now_is_no_longer_of_the_backfill(inbox: Inbox, clock: Clock) -> None:
    inbox.fill([A, B, C])
    inbox.mark(C, 1.0)
    assert inbox.take_backfill(1) == [A]
    assert not inbox.presses()
    clock.now += 1
    assert inbox.presses()
    assert inbox.take_fresh(9) == [C]
    assert not inbox.presses()
    assert inbox.take_backfill(9) == [B]
    assert len(inbox) == 0


def test_the_latest_mark_says_whether_a_file_is_closed(inbox: Inbox) -> None:
    for closed in (True, False, True):
        inbox.mark(Dirty("docs", b"a", closed), 0.0)
    assert [one.closed for one in inbox.take_fresh(9)] == [True]


def test_a_job_presses(inbox: Inbox) -> None:
    inbox.submit(lambda: 1)
    assert inbox.presses()
    inbox.take_job()
    assert not inbox.presses()


def test_no_more_are_taken_than_asked_for(inbox: Inbox) -> None:
    for one in (A, B, C):
        inbox.mark(one, 0.0)
    assert len(inbox.take_fresh(2)) == 2
    assert len(inbox) == 1


def test_too_many_marks_become_a_sweep(inbox: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.inbox.MOST_PATHS", 2)
    inbox.sweep("docs", 1000.0)
    for one in (A, B, C):
        inbox.mark(one, 1.0)
    assert len(inbox) == 2
    assert inbox.take_sweep() is None
    clock.now += 1
    assert inbox.take_sweep() == "docs", "not before the sweep that was due later anyway"
    inbox.mark(A, 1.0)  # known already: no sweep
    assert inbox.take_sweep() is None


def test_a_hundred_thousand_marks_lose_none_and_stay_bounded(inbox: Inbox, clock: Clock) -> None:
    folder = {Dirty("docs", b"%d" % number) for number in range(100_000)}  # what a sweep compares with
    for dirty in folder:
        inbox.mark(dirty, 0.05)
    done: set[Dirty] = set()
    while len(done) < len(folder):
        assert len(inbox) <= 40_000
        clock.now += 5.0
        if inbox.take_sweep():
            inbox.fill([dirty for dirty in folder if dirty not in done])
        while taken := inbox.take_fresh(5000) or inbox.take_backfill(5000):
            done |= set(taken)
    assert len(inbox) == 0


def test_the_latest_change_comes_first(inbox: Inbox, clock: Clock) -> None:
    for number in range(100):
        inbox.mark(Dirty("docs", b"%d" % number), 0.05)
    clock.now += 1.0
    inbox.mark(Dirty("docs", b"saved just now"), 0.05)
    clock.now += 1.0
    assert inbox.take_fresh(2)[0] == Dirty("docs", b"saved just now")
    assert len(inbox.take_fresh(1000)) == 99


def test_too_large_a_backfill_is_swept_again(inbox: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.inbox.MOST_PATHS", 2)
    inbox.sweep("docs", 1000.0)
    inbox.fill([A, B, C])
    assert inbox.take_backfill(9) == [A, B]
    clock.now += 5
    assert inbox.take_sweep() == "docs"


def test_the_earlier_of_two_sweeps_stands(inbox: Inbox, clock: Clock) -> None:
    inbox.sweep("docs", 5.0)
    inbox.sweep("docs", 50.0)
    inbox.sweep("other", 50.0)
    assert inbox.take_sweep() is None
    clock.now += 5
    assert inbox.take_sweep() == "docs"
    assert inbox.take_sweep() is None


def test_jobs_run_in_order_and_answer(inbox: Inbox) -> None:
    first, second = inbox.submit(lambda: 1), inbox.submit(lambda: 2)
    for expected in (first, second):
        taken = inbox.take_job()
        assert taken is not None
        job, future = taken
        assert future is expected
        future.set_result(job())
    assert (first.result(), second.result()) == (1, 2)
    assert inbox.take_job() is None


def test_closing_refuses_what_was_not_begun(inbox: Inbox) -> None:
    waiting = inbox.submit(lambda: 1)
    inbox.close()
    late = inbox.submit(lambda: 2)
    for future in (waiting, late):
        with pytest.raises(Stopping, match="stopping"):
            future.result(timeout=1)
    assert inbox.take_job() is None


def test_waiting_ends_when_something_is_due() -> None:
    inbox = Inbox()
    inbox.mark(A, 0.05)
    started = time.monotonic()
    inbox.wait(30)
    assert 0.04 < time.monotonic() - started < 10
    assert inbox.take_fresh(1) == [A]
    started = time.monotonic()
    inbox.wait(0.05)
    assert 0.04 < time.monotonic() - started < 10


@pytest.mark.parametrize("wake", ["mark", "fill", "sweep", "submit", "close"])
def test_waiting_ends_when_something_is_put(wake: str) -> None:
    inbox = Inbox()
    put = {
        "mark": lambda: inbox.mark(A, 0.0),
        "fill": lambda: inbox.fill([A]),
        "sweep": lambda: inbox.sweep("docs"),
        "submit": lambda: inbox.submit(lambda: 1),
        "close": inbox.close,
    }[wake]
    timer = threading.Timer(0.05, put)
    timer.start()
    started = time.monotonic()
    inbox.wait(30)
    assert time.monotonic() - started < 10
    timer.join()
