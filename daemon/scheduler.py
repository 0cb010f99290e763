"""What runs when: cron schedules in local time, and plain intervals. The only file that imports apscheduler.

A job runs on the scheduler's own threads, so it should only post to a queue and return.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from store.errors import ConfigError

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Scheduler:
    """Jobs by name; adding a name again replaces its job.

    A run that comes late (the machine slept, a job was slow) happens once, as soon as it can; a job never overlaps
    itself; one that raises is logged by apscheduler and runs again the next time.
    """

    def __init__(self, timezone: tzinfo | None = None) -> None:
        options = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        given = {"timezone": timezone} if timezone else {}  # apscheduler finds the local one itself
        self._scheduler = BackgroundScheduler(job_defaults=options, **given)

    def cron(self, name: str, expression: str, job: Callable[[], object]) -> None:
        """Run `job` on a schedule of five cron fields; an empty expression means never."""
        if expression:
            self._add(name, _trigger(expression, self._scheduler.timezone), job)

    def every(self, name: str, seconds: float, job: Callable[[], object]) -> None:
        """Run `job` each `seconds`, first after `seconds`."""
        self._add(name, IntervalTrigger(seconds=seconds, timezone=self._scheduler.timezone), job)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """No job starts after this; one that runs is waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown()

    def next_runs(self) -> dict[str, datetime]:
        """When each job runs next, timezone-aware, soonest first; empty unless started."""
        jobs = self._scheduler.get_jobs() if self._scheduler.running else []
        return {job.id: job.next_run_time for job in jobs if job.next_run_time}

    def _add(self, name: str, trigger: Any, job: Callable[[], object]) -> None:
        self._scheduler.add_job(job, trigger, id=name, name=name, replace_existing=True)


def check_cron(expression: str) -> None:
    """Raises ConfigError unless `expression` is a schedule of five cron fields that comes due some day."""
    trigger = _trigger(expression, None)
    if trigger.get_next_fire_time(None, datetime.now().astimezone()) is None:
        raise ConfigError(f"{expression!r} is not a schedule: it never comes due")


def _trigger(expression: str, timezone: tzinfo | None) -> Any:
    try:
        minute, hour, day, month, weekday = expression.split()
    except ValueError:
        fields = "minute, hour, day, month, weekday"
        raise ConfigError(f"{expression!r} is not a schedule: it needs five fields ({fields})") from None
    try:
        at = {"minute": minute, "hour": hour, "month": month, "timezone": timezone}
        if day == "*":
            return CronTrigger(day_of_week=_weekdays(weekday), **at)
        if weekday == "*":
            return CronTrigger(day=day, **at)
        # As cron has it: with both restricted, either is enough.
        return OrTrigger([CronTrigger(day=day, **at), CronTrigger(day_of_week=_weekdays(weekday), **at)])
    except ValueError as error:
        raise ConfigError(f"{expression!r} is not a schedule: {error}") from None


def _weekdays(field: str) -> str:
    """A weekday field spelled out in names: for cron 0 and 7 are Sunday, for apscheduler 0 is Monday."""
    days: list[str] = []
    for part in field.lower().split(","):
        match = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/([1-9]\d*))?", part)
        if match is None or (match[1] == "*" and match[2]):
            raise ValueError(f"{part!r} is no weekday")
        first = 0 if match[1] == "*" else _weekday(match[1])
        last = 6 if match[1] == "*" else _weekday(match[2]) if match[2] else first
        if last < first:  # fri-sun, or 6-1
            last += 7
        days += [WEEKDAYS[day % 7] for day in range(first, last + 1, int(match[3] or 1))]
    return ",".join(dict.fromkeys(days))


def _weekday(text: str) -> int:
    if text in WEEKDAYS:
        return WEEKDAYS.index(text)
    if text.isdecimal() and int(text) <= 7:
        return int(text)
    raise ValueError(f"{text!r} is no weekday (sun to sat, or 0 to 7)")
