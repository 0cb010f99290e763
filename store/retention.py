"""Which snapshots stay (pure). The rules are restic's; see https://restic.readthedocs.io, "Removing snapshots".

`hourly = 24` keeps the newest snapshot of each of the last 24 hours that have one, `daily`, `weekly` (ISO weeks) and
`monthly` likewise, in local time as the schedules are. `last` keeps the newest ones, whenever they were taken; `within`
those taken at most so long before the newest. As long as a rule has not reached its count, it keeps the oldest too.

Newest means latest in the order of the head's moves, never by the clock: a clock that was wrong for a while neither
hides new snapshots behind those it dated into the future, nor makes the newest one go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from store.errors import UsageError
from store.types import Head, Snapshot

BUCKETS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda at: (at.date(), at.hour),
    "daily": lambda at: at.date(),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """How many to keep of each kind; 0 turns a rule off."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    within: timedelta = timedelta(0)

    @property
    def keeps_any(self) -> bool:
        return bool(self.last or self.hourly or self.daily or self.weekly or self.monthly or self.within)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a policy does with the snapshots, each group oldest first. `kept` has the reasons for each."""

    kept: tuple[tuple[Snapshot, tuple[str, ...]], ...]
    removed: tuple[Snapshot, ...]


def judge(
    snapshots: Collection[Snapshot],
    policy: Policy,
    *,
    head: Head,
    busy: Collection[str] = (),
    zone: tzinfo | None = None,
) -> Judged:
    """Decide which snapshots stay, and why.

    Whatever the policy says, these stay too: pinned ones; the newest that undoes a rollback and the newest that undoes
    a promotion, of either kind of adapter; the newest that names the head's version, and the newest that names its
    adapter, of either kind; those that a rollback under way needs (`busy`). `zone` None is local time. Raises
    UsageError for a policy without any rule.
    """
    if not policy.keeps_any:
        raise UsageError("no rule of [snapshots] keeps anything, so all would go; set one of its keep_* settings")
    newest_first = sorted(snapshots, key=lambda one: (one.head.move, one.created_at, one.name), reverse=True)
    reasons: dict[str, list[str]] = {one.name: [] for one in newest_first}
    for one in newest_first:
        if one.pinned:
            reasons[one.name].append("pinned")
        if one.name in busy:
            reasons[one.name].append("a rollback is under way")
    version, adapter, query = (head.generation, head.version), head.adapter, head.query_adapter
    first_of = (
        ("undoes the last rollback", lambda one: one.undoes == "rollback"),
        ("undoes the last promotion", lambda one: one.undoes == "promotion"),
        ("undoes the last query promotion", lambda one: one.undoes == "query promotion"),
        ("the head's version", lambda one: (one.head.generation, one.head.version) == version),
        ("the head's adapter", lambda one: adapter is not None and one.head.adapter == adapter),
        ("the head's query adapter", lambda one: query is not None and one.head.query_adapter == query),
    )
    for reason, holds in first_of:
        if (found := next(filter(holds, newest_first), None)) is not None:
            reasons[found.name].append(reason)
    for reason, kept in _by_rule(newest_first, policy, zone):
        reasons[kept.name].append(reason)
    oldest_first = newest_first[::-1]
    return Judged(
        kept=tuple((one, tuple(reasons[one.name])) for one in oldest_first if reasons[one.name]),
        removed=tuple(one for one in oldest_first if not reasons[one.name]),
    )


def _by_rule(newest_first: Sequence[Snapshot], policy: Policy, zone: tzinfo | None) -> list[tuple[str, Snapshot]]:
    kept = [("last", one) for one in newest_first[: policy.last]]
    if policy.within and newest_first:
        newest = newest_first[0].created_at
        # Both ways: what a wrong clock dated long after the newest is not near it either.
        kept += [("within", one) for one in newest_first if abs(newest - one.created_at) <= policy.within]
    for reason, bucket in BUCKETS.items():
        count = getattr(policy, reason)
        firsts: dict[object, Snapshot] = {}
        for one in newest_first:
            firsts.setdefault(bucket(one.created_at.astimezone(zone)), one)
        chosen = list(firsts.values())[:count]
        if chosen and len(chosen) < count and newest_first[-1] is not chosen[-1]:
            chosen.append(newest_first[-1])
        kept += [(reason, one) for one in chosen]
    return kept
