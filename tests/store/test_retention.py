"""Which snapshots stay: the policy against a naive model of it, whatever the clock did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.errors import UsageError
from store.retention import Judged, Policy, judge
from store.types import Head, Snapshot
from store.when import parse_span

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HEAD = Head(10_000, BEGIN, "g", 10_000, None, "ingest")  # newer than all snapshots, so it names none of them


def snapshot(
    move: int, at: datetime, *, pinned: bool = False, undoes: str = "", adapter: int | None = None
) -> Snapshot:
    head = Head(move, at, "g", move, adapter, "ingest")
    return Snapshot(f"s{move}", head, at, 1, 1, "", "test", pinned, undoes)


def at_times(*times: datetime) -> list[Snapshot]:
    """Snapshots in the order in which they were taken, whatever their times say."""
    return [snapshot(move, at) for move, at in enumerate(times, start=1)]


def kept(judged: Judged) -> list[str]:
    return [one.name for one, _ in judged.kept]


def decide(snapshots: Sequence[Snapshot], policy: Policy, head: Head = HEAD) -> Judged:
    return judge(snapshots, policy, head=head, zone=UTC)


# --- the naive model -------------------------------------------------------------------------------------------

KEYS = {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G %V", "monthly": "%Y-%m"}


def naive(snapshots: Sequence[Snapshot], policy: Policy) -> set[tuple[str, str]]:
    """(name, rule) of what stays, by grouping; `snapshots` in the order in which they were taken."""
    stays = {(one.name, "last") for one in snapshots[len(snapshots) - min(policy.last, len(snapshots)) :]}
    for rule, key in KEYS.items():
        count, newest = getattr(policy, rule), {}
        for number, one in enumerate(snapshots):
            newest[one.created_at.strftime(key)] = number
        chosen = sorted(newest.values())[::-1][:count]
        if snapshots and len(chosen) < count:
            chosen.append(0)
        stays |= {(snapshots[number].name, rule) for number in chosen}
    if policy.within and snapshots:
        latest = snapshots[-1].created_at
        low, high = latest - policy.within, latest + policy.within
        stays |= {(one.name, "within") for one in snapshots if low <= one.created_at <= high}
    return stays


COUNTS = st.integers(0, 6)
POLICIES = st.builds(
    Policy, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from([timedelta(0), timedelta(hours=5), timedelta(9)])
).filter(lambda policy: policy.keeps_any)
# mostly forward by minutes to months; now and then the clock jumps, for years and both ways
STEPS = st.one_of(
    st.integers(1, 90).map(lambda n: timedelta(minutes=n)),
    st.integers(1, 60).map(lambda n: timedelta(hours=7 * n)),
    st.integers(-400, 400).map(lambda n: timedelta(days=n)),
    st.sampled_from([timedelta(days=-3650), timedelta(days=3650), timedelta(hours=-1)]),
)
TIMES = st.lists(STEPS, max_size=40).map(
    lambda steps: [BEGIN + sum(steps[:end], timedelta()) for end in range(1, len(steps) + 1)]
)


@given(TIMES, POLICIES)
@settings(max_examples=400, deadline=None)
def test_the_policy_is_its_naive_model(times: list[datetime], policy: Policy) -> None:
    snapshots = at_times(*times)
    judged = decide(snapshots[::-1], policy)
    assert {(one.name, reason) for one, reasons in judged.kept for reason in reasons} == naive(snapshots, policy)
    assert sorted([*judged.removed, *(one for one, _ in judged.kept)], key=lambda one: one.head.move) == snapshots


@given(TIMES, POLICIES)
@settings(max_examples=200, deadline=None)
def test_whatever_the_clock_did_the_newest_stay_and_deciding_again_changes_nothing(
    times: list[datetime], policy: Policy
) -> None:
    snapshots = at_times(*times)
    judged = decide(snapshots, policy)
    assert kept(judged)[-1:] == [one.name for one in snapshots[-1:]]
    assert {one.name for one in snapshots[len(snapshots) - min(policy.last, len(snapshots)) :]} <= set(kept(judged))
    again = decide([one for one, _ in judged.kept], policy)
    assert (again.kept, again.removed) == (judged.kept, ())


# --- by example ------------------------------------------------------------------------------------------------


def test_a_year_of_hourly_snapshots_pruned_as_it_goes() -> None:
    policy = Policy(last=10, hourly=24, daily=7, weekly=5, monthly=12)
    taken: list[Snapshot] = []
    for move in range(1, 365 * 24, 3):  # every third hour
        taken = [one for one, _ in decide([*taken, snapshot(move, BEGIN + timedelta(hours=move))], policy).kept]
    assert len(taken) <= 10 + 24 + 7 + 5 + 12
    last = taken[-1].created_at
    ages = [(last - one.created_at).days for one in taken]
    assert sum(age == 0 for age in ages) >= 8
    assert sum(age <= 7 for age in ages) >= 8 + 6
    assert len({(one.created_at.year, one.created_at.month) for one in taken}) == 12


def test_hours_and_days_are_those_of_the_zone_that_is_asked_for() -> None:
    late, midnight = datetime(2026, 6, 1, 21, 30, tzinfo=UTC), datetime(2026, 6, 1, 22, 30, tzinfo=UTC)
    snapshots = [snapshot(1, late - timedelta(days=9)), snapshot(2, late), snapshot(3, midnight)]
    assert kept(judge(snapshots, Policy(daily=2), head=HEAD, zone=UTC)) == ["s1", "s3"]
    berlin = ZoneInfo("Europe/Berlin")  # half past eleven in the evening, and half past midnight
    assert kept(judge(snapshots, Policy(daily=2), head=HEAD, zone=berlin)) == ["s2", "s3"]


def test_a_rule_that_is_not_full_keeps_the_oldest_too() -> None:
    days = [BEGIN + timedelta(hours=hours) for hours in (0, 1, 2, 30, 31)]
    assert kept(decide(at_times(*days), Policy(daily=3))) == ["s1", "s3", "s5"]
    assert kept(decide(at_times(*days), Policy(daily=2))) == ["s3", "s5"]


def test_a_clock_that_was_far_ahead_for_a_while_does_not_hide_what_comes_after() -> None:
    wrong = [datetime(2099, 1, 1, hour, tzinfo=UTC) for hour in range(24)]
    right = [BEGIN + timedelta(hours=hour) for hour in range(30)]
    policy = Policy(last=2, hourly=24, within=timedelta(days=2))
    judged = decide(at_times(*wrong, *right), policy)
    assert kept(judged) == [f"s{move}" for move in range(25, 55)]


def test_a_clock_set_back_keeps_the_new_snapshots() -> None:
    before = [BEGIN + timedelta(days=100, hours=hour) for hour in range(5)]
    after = [BEGIN + timedelta(hours=hour) for hour in range(3)]
    judged = decide(at_times(*before, *after), Policy(hourly=4))
    assert kept(judged) == ["s5", "s6", "s7", "s8"]


def test_what_must_stay_stays_whatever_the_policy_says() -> None:
    hours = [BEGIN + timedelta(hours=hour) for hour in range(10)]
    snapshots = [
        snapshot(1, hours[0], pinned=True),
        snapshot(2, hours[1], undoes="rollback"),
        snapshot(3, hours[2], undoes="rollback"),
        snapshot(4, hours[3], undoes="promotion"),
        snapshot(5, hours[4], adapter=7),
        snapshot(6, hours[5], adapter=7),
        snapshot(7, hours[6]),
        snapshot(8, hours[7]),
        snapshot(9, hours[8]),
        snapshot(10, hours[9]),
    ]
    head = Head(11, hours[9], "g", 8, 7, "ingest")  # its version is that of s8, as after a rollback of the model
    judged = judge(snapshots, Policy(last=1), head=head, busy=("s7",), zone=UTC)
    assert {one.name: reasons for one, reasons in judged.kept} == {
        "s1": ("pinned",),
        "s3": ("undoes the last rollback",),
        "s4": ("undoes the last promotion",),
        "s6": ("the head's adapter",),
        "s7": ("a rollback is under way",),
        "s8": ("the head's version",),
        "s10": ("last",),
    }
    assert [one.name for one in judged.removed] == ["s2", "s5", "s9"]


def test_what_a_query_adapter_needs_stays_beside_what_the_generators_does() -> None:
    serving = [
        replace(snapshot(move, BEGIN).head, query_adapter=query) for move, query in enumerate((None, 8, 8, 9), 2)
    ]
    snapshots = [
        snapshot(1, BEGIN, undoes="promotion"),
        *(replace(snapshot(head.move, BEGIN), head=head) for head in serving),
        snapshot(6, BEGIN, undoes="query promotion"),
        snapshot(7, BEGIN),
    ]
    judged = judge(snapshots, Policy(last=1), head=replace(HEAD, query_adapter=8), zone=UTC)
    assert {one.name: reasons for one, reasons in judged.kept} == {
        "s1": ("undoes the last promotion",),
        "s4": ("the head's query adapter",),
        "s6": ("undoes the last query promotion",),
        "s7": ("last",),
    }


def test_a_policy_that_would_drop_all_is_refused() -> None:
    with pytest.raises(UsageError, match="keep_"):
        decide(at_times(BEGIN), Policy())
    with pytest.raises(UsageError, match="keep_"):
        decide([], Policy())


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("", timedelta(0)),
        ("7d", timedelta(days=7)),
        ("1d12h", timedelta(hours=36)),
        ("2w", timedelta(weeks=2)),
        ("1w1d1h", timedelta(days=8, hours=1)),
    ],
)
def test_durations_are_read(text: str, span: timedelta) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["7", "d", "7 d", "-7d", "1h1d", "7m", "1.5d", "99999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"7d|longer"):
        parse_span(text)
