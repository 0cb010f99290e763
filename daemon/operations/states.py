"""States of the memory: naming them, and returning to them."""

from __future__ import annotations

import time
from dataclasses import asdict

from daemon.operations import shapes
from daemon.operations.shapes import Json
from daemon.runtime import Runtime


def snapshot_create(runtime: Runtime, name: str | None = None, reason: str = "by hand") -> Json:
    """Name the state that serves now."""
    return shapes.snapshot(runtime.memory.snapshot(name, reason))


def snapshot_list(runtime: Runtime) -> list[Json]:
    """All snapshots, oldest first."""
    return [shapes.snapshot(one) for one in runtime.memory.snapshots()]


def snapshot_show(runtime: Runtime, name: str) -> Json:
    """One snapshot, and what returning to it would change."""
    plan = runtime.memory.plan_rollback(name)
    return {**shapes.snapshot(runtime.memory.named(name)), "rollback": asdict(plan)}


def snapshot_delete(runtime: Runtime, name: str) -> Json:
    """Delete a snapshot's name; what it held may be pruned."""
    runtime.memory.delete_snapshot(name)
    return {"deleted": name}


def rollback_plan(runtime: Runtime, snapshot: str, only: str | None = None) -> Json:
    """What a rollback would do, doing nothing."""
    return {"to": snapshot, "dry_run": True, **asdict(runtime.memory.plan_rollback(snapshot, only))}


def rollback(runtime: Runtime, snapshot: str, only: str | None = None) -> Json:
    """Return the head to a snapshot; the state before is kept as a snapshot of its own."""
    started = time.perf_counter()
    done = runtime.memory.roll_back(snapshot, only)
    return {
        "from": done.safety,
        "to": done.to,
        "version": done.head.version,
        "adapter": done.head.adapter,
        "held": done.held,
        "seconds": round(time.perf_counter() - started, 4),
    }
