"""What runs when."""

from __future__ import annotations

import queue
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.scheduler import WEEKDAYS, Scheduler, _weekdays, check_cron
from store.errors import ConfigError


@pytest.fixture
def scheduler():
    scheduler = Scheduler(UTC)
    yield scheduler
    scheduler.stop()


def test_an_interval_posts_again_and_again(scheduler: Scheduler) -> None:
    posted: queue.Queue[float] = queue.Queue()
    scheduler.every("tick", 0.05, lambda: posted.put(time.monotonic()))
    scheduler.start()
    times = [posted.get(timeout=10) for _ in range(3)]
    assert all(later - earlier > 0.01 for earlier, later in pairwise(times))


def test_a_job_that_raises_is_logged_and_runs_again(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    posted: queue.Queue[int] = queue.Queue()

    def job() -> None:
        posted.put(1)
        raise OSError("no space left")

    scheduler.every("doomed", 0.05, job)
    scheduler.start()
    for _ in range(3):
        posted.get(timeout=10)
    assert "doomed" in caplog.text
    assert "no space left" in caplog.text


def test_a_slow_job_does_not_overlap_itself(scheduler: Scheduler) -> None:
    running, overlapped, runs = threading.Lock(), threading.Event(), threading.Semaphore(0)

    def job() -> None:
        if not running.acquire(blocking=False):
            overlapped.set()
            return
        time.sleep(0.1)
        running.release()
        runs.release()

    scheduler.every("slow", 0.02, job)
    scheduler.start()
    for _ in range(3):
        assert runs.acquire(timeout=10)
    assert not overlapped.is_set()


def test_stop_waits_for_a_running_job_and_can_be_repeated() -> None:
    scheduler, began, done = Scheduler(UTC), threading.Event(), []

    def job() -> None:
        began.set()
        time.sleep(0.1)
        done.append(True)

    scheduler.every("job", 0.02, job)
    scheduler.start()
    assert began.wait(10)
    scheduler.stop()
    ended = len(done)
    assert ended
    time.sleep(0.15)
    assert len(done) == ended
    scheduler.stop()


def test_stop_without_start_is_well() -> None:
    Scheduler().stop()


def test_next_runs_by_name(scheduler: Scheduler) -> None:
    scheduler.every("rescan", 600, int)
    scheduler.cron("refresh", "0 3 * * *", int)
    scheduler.cron("snapshots", "", int)
    assert scheduler.next_runs() == {}
    before = datetime.now(UTC)
    scheduler.start()
    runs = scheduler.next_runs()
    assert set(runs) == {"rescan", "refresh"}
    assert timedelta(minutes=9) < runs["rescan"] - before < timedelta(minutes=11)
    assert (runs["refresh"].hour, runs["refresh"].minute) == (3, 0)
    assert runs["refresh"].tzinfo is not None


def test_cron_is_in_the_given_zone() -> None:
    scheduler = Scheduler(timezone(timedelta(hours=5)))
    scheduler.cron("refresh", "0 3 * * *", int)
    scheduler.start()
    try:
        assert scheduler.next_runs()["refresh"].astimezone(UTC).hour == 22
    finally:
        scheduler.stop()


def test_a_name_added_again_replaces_its_job(scheduler: Scheduler) -> None:
    scheduler.every("rescan", 60, int)
    scheduler.start()
    scheduler.every("rescan", 6000, int)
    assert scheduler.next_runs()["rescan"] - datetime.now(UTC) > timedelta(minutes=90)


def test_without_a_zone_the_local_one_holds() -> None:
    scheduler = Scheduler()
    scheduler.cron("refresh", "30 3 * * *", int)
    scheduler.start()
    try:
        local = scheduler.next_runs()["refresh"].astimezone()
        assert (local.hour, local.minute) == (3, 30)
    finally:
        scheduler.stop()


@pytest.mark.parametrize("expression", ["* * * * *", "*/15 2-4 1,15 jan-mar *", "0 3 * * 0", "0 0 29 2 *"])
def test_check_cron_takes(expression: str) -> None:
    check_cron(expression)


@pytest.mark.parametrize(
    "expression",
    ["", "daily", "@daily", "0 3 * *", "0 3 * * * *", "60 * * * *", "0 24 * * *", "0 3 0 * *", "0 3 * 13 *",
     "0 3 * * 8", "0 3 * * someday", "0 3 * * *-3", "0 3 31 2 *", "x 3 * * *", "*/0 * * * *", "0 3 * * */0"],
)  # fmt: skip
def test_check_cron_refuses(expression: str) -> None:
    with pytest.raises(ConfigError, match="is not a schedule"):
        check_cron(expression)


def test_either_is_enough_where_day_and_weekday_are_given(scheduler: Scheduler) -> None:
    scheduler.cron("both", "0 3 13 * fri", int)
    scheduler.cron("friday", "0 3 * * fri", int)
    scheduler.cron("thirteenth", "0 3 13 * *", int)
    scheduler.start()
    runs = scheduler.next_runs()
    assert runs["both"] == min(runs["friday"], runs["thirteenth"])


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1", "mon"),
        ("1-5", "mon,tue,wed,thu,fri"),
        ("mon-fri", "mon,tue,wed,thu,fri"),
        ("5-7", "fri,sat,sun"),
        ("fri-mon", "fri,sat,sun,mon"),
        ("*/2", "sun,tue,thu,sat"),
        ("1-5/2", "mon,wed,fri"),
        ("SAT,sun,6", "sat,sun"),
        ("0-7", "sun,mon,tue,wed,thu,fri,sat"),
        ("*", "sun,mon,tue,wed,thu,fri,sat"),
    ],
)
def test_weekdays_are_those_of_cron(field: str, names: str) -> None:
    assert _weekdays(field) == names


@given(st.integers(0, 6))
def test_a_weekday_comes_due_on_its_day(day: int) -> None:
    scheduler = Scheduler(UTC)
    scheduler.cron("weekly", f"0 3 * * {day}", int)
    scheduler.start()
    try:
        assert scheduler.next_runs()["weekly"].strftime("%a").lower() == WEEKDAYS[day]
    finally:
        scheduler.stop()
