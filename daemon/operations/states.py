"""States of the memory: naming them, and returning to them."""

from __future__ import annotations

import time

from daemon.operations import shapes
from daemon.operations.shapes import Depth, Json
from daemon.runtime import Runtime
from daemon.settings import Snapshots
from store.difference import movements
from store.retention import Judged, Policy
from store.when import parse_span


def snapshot_create(runtime: Runtime, name: str | None = None, reason: str = "by hand") -> Json:
    """Name the state that serves now. One that is given a name is pinned: retention leaves it alone."""
    return shapes.snapshot(runtime.memory.snapshot(name, reason, pinned=bool(name)))


def snapshot_list(runtime: Runtime) -> list[Json]:
    """All snapshots, oldest first."""
    return [shapes.snapshot(one) for one in runtime.memory.snapshots()]


def snapshot_show(runtime: Runtime, name: str) -> Json:
    """One snapshot, and what returning to it would change."""
    planned = rollback_plan(runtime, name)
    shown = next(one for one in runtime.memory.snapshots() if one.name == name)
    return {**shapes.snapshot(shown), "rollback": planned}


def snapshot_diff(
    runtime: Runtime,
    first: str,
    second: str | None = None,
    queries: list[str] | None = None,
    k: Depth | None = None,
) -> Json:
    """What differs from one state to another (the head, if none is named), and how the queries' results moved."""
    memory = runtime.memory
    states = memory.state(first), memory.state(second)
    k = runtime.settings.retrieval.k if k is None else k
    moved = []
    for query in queries or ():
        hits = [memory.search(query, k, when=state).hits for state in states]
        moved.append({"query": query, "results": [shapes.moved(one) for one in movements(*hits)]})
    return {
        "from": shapes.state(states[0]),
        "to": shapes.state(states[1]),
        **shapes.difference(memory.past.difference(*states)),
        "queries": moved,
    }


def snapshot_pin(runtime: Runtime, name: str, pinned: bool = True) -> Json:
    """Have retention leave a snapshot alone, or not any more."""
    return shapes.snapshot(runtime.memory.pin_snapshot(name, pinned))


def snapshot_delete(runtime: Runtime, name: str) -> Json:
    """Delete a snapshot's name; what it held may be pruned."""
    runtime.memory.delete_snapshot(name)
    return {"deleted": name}


def snapshot_prune_plan(runtime: Runtime) -> Json:
    """Which snapshots the policy in [snapshots] keeps, and which not, doing nothing."""
    return {"dry_run": True, **_judged(runtime.memory.past.judged(policy(runtime.settings.snapshots)))}


def snapshot_prune(runtime: Runtime) -> Json:
    """Delete the snapshots that the policy in [snapshots] does not keep."""
    return {"dry_run": False, **_judged(runtime.memory.prune_snapshots(policy(runtime.settings.snapshots)))}


def policy(settings: Snapshots) -> Policy:
    """The retention policy that the settings ask for."""
    return Policy(
        last=settings.keep_last,
        hourly=settings.keep_hourly,
        daily=settings.keep_daily,
        weekly=settings.keep_weekly,
        monthly=settings.keep_monthly,
        within=parse_span(settings.keep_within),
    )


def rollback_plan(runtime: Runtime, snapshot: str, only: str | None = None) -> Json:
    """What a rollback would do, doing nothing."""
    planned = runtime.memory.plan_rollback(snapshot, only)
    changes = planned.difference
    return {
        "to": snapshot,
        "only": only,
        "dry_run": True,
        "out": [one.path for one in changes.removed],
        "back": [one.path for one in changes.added],
        "changed": [then.path for _, then in changes.changed],
        "moved": [{"from": now.path, "to": then.path} for now, then in changes.moved],
        "relabelled": [then.path for _, then in changes.relabelled],
        "held": [{"path": hold.path, "reason": hold.reason} for hold in planned.held],
        "freed": list(planned.freed),
        "adapter": shapes.pair(changes.adapter),
        "query_adapter": shapes.pair(changes.query_adapter),
        "settings": {key: shapes.pair(values) for key, values in changes.settings.items()},
    }


def rollback(runtime: Runtime, snapshot: str, only: str | None = None) -> Json:
    """Return the head to a snapshot; the state before is kept as a snapshot of its own."""
    started = time.perf_counter()
    done = runtime.memory.roll_back(snapshot, only)
    return {
        "from": done.safety,
        "to": done.to,
        "version": done.head.version,
        "adapter": done.head.adapter,
        "query_adapter": done.head.query_adapter,
        "held": done.held,
        "seconds": round(time.perf_counter() - started, 4),
    }


def _judged(done: Judged) -> Json:
    return {
        "kept": [{**shapes.snapshot(one), "reasons": list(reasons)} for one, reasons in done.kept],
        "removed": [shapes.snapshot(one) for one in done.removed],
    }
