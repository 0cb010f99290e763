"""Naming states, finding them again, letting go of them, and returning to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from store.catalogue import documents, heads, history, holds, learning
from store.catalogue.database import Database, Session
from store.difference import Difference, difference
from store.durable import sync_filesystem
from store.errors import NotFound, UsageError
from store.retention import Judged, Policy, judge
from store.types import GENERATOR, QUERY, Head, Hold, Snapshot, State
from store.vectors import Generations
from store.when import parse_time

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # what a Lance tag may be called, and no path
HALVES = ("index", "model")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollback would do. `difference` is from the head to what it would be, but for settings: these are the
    ones in force and those at the snapshot, which a rollback does not bring back."""

    difference: Difference
    held: tuple[Hold, ...]  # what the rollback would put on hold, and why
    freed: tuple[str, ...]  # paths that are held now and would be no longer


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did. `safety` names the snapshot of the state before: rolling back to it undoes this."""

    to: str
    safety: str
    head: Head
    held: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """How the adapter that serves came to. `before` is the snapshot of the state before, which undoes it."""

    head: Head
    before: Snapshot


def create(
    database: Database,
    vectors: Generations,
    *,
    name: str | None,
    reason: str,
    config: str,
    now: datetime,
    pinned: bool = False,
    undoes: str = "",
) -> Snapshot:
    """Name the head. Raises UsageError for a name that is taken or cannot be one."""
    snapshot = protect(database, vectors, name=name, reason=reason, config=config, now=now)
    snapshot = replace(snapshot, pinned=pinned, undoes=undoes)
    with database.write() as session:
        history.add_snapshot(session, snapshot)
    return snapshot


def protect(
    database: Database, vectors: Generations, *, name: str | None, reason: str, config: str, now: datetime
) -> Snapshot:
    """The first half of `create`: tag the head's version. A tag whose snapshot gets no row goes with the next start."""
    with database.read() as session:
        head = heads.head(session)
        taken = {snapshot.name for snapshot in history.snapshots(session)}
        assert head is not None
        counts = documents.counts_at(session, head.move)
    name = name or _free_name(f"at-{now:%Y%m%dT%H%M%SZ}", taken)
    if not NAME.fullmatch(name):
        raise UsageError(f"snapshot name {name!r}: use letters, digits, '.', '-' and '_', at most 100")
    if parse_time(name, now) is not None or name.isdigit():
        raise UsageError(f"snapshot name {name!r} reads as a version or a time; choose a word")
    if name in taken:
        raise UsageError(f"snapshot {name!r} is there already; choose another name or delete it first")
    vectors.tag(head.generation, name, head.version)
    sync_filesystem(vectors.folder)
    return Snapshot(name, head, now, *counts, config, reason)


def promote(
    database: Database,
    vectors: Generations,
    adapter: int,
    record: Callable[[Session], None],
    *,
    kind: str = GENERATOR,
    config: str,
    clock: Callable[[], datetime],
) -> Head:
    """Move the head to an adapter and add snapshots of the states before and after: one transaction, in which `record`
    keeps how its run went. A query adapter is no choice of a model: a canary that is under way goes on."""
    at, what = clock(), "adapter" if kind == GENERATOR else "query adapter"
    before, after = (
        protect(database, vectors, name=name, reason=reason, config=config, now=clock())
        for name, reason in (
            (_before(adapter), f"before {what} {adapter} began to serve"),
            (f"adapter-{adapter:04d}", f"{what} {adapter} began to serve"),
        )
    )
    with database.write() as session:
        learning.set_adapter_state(session, adapter, "promoted")
        record(session)
        serves = replace(
            before.head,
            at=at,
            adapter=adapter if kind == GENERATOR else before.head.adapter,
            query_adapter=adapter if kind == QUERY else before.head.query_adapter,
            reason=_promoted(adapter) if kind == GENERATOR else after.reason,
        )
        head = heads.move_head(session, serves)
        history.add_snapshot(session, replace(before, undoes="promotion" if kind == GENERATOR else "query promotion"))
        history.add_snapshot(session, replace(after, head=head))
    return head


def promotion(database: Database, since: datetime) -> Promotion | None:
    """The promotion by which the head's adapter serves.

    None when it was before `since`, when a rollback of the model or another promotion came after it, and when the
    snapshot of the state before it is gone.
    """
    with database.read() as session:
        head, chosen = heads.head(session), heads.latest_choice(session, since)
        assert head is not None
        if head.adapter is None or chosen is None or chosen.reason != _promoted(head.adapter):
            return None
        before = history.snapshot(session, _before(head.adapter))
    return None if before is None else Promotion(chosen, before)


def pin(database: Database, name: str, pinned: bool) -> Snapshot:
    """Have retention leave a snapshot alone, or not any more. Raises NotFound."""
    with database.write() as session:
        _named(session, name)
        history.pin(session, name, pinned)
    with database.read() as session:
        return _named(session, name)


def delete(database: Database, vectors: Generations, name: str) -> None:
    """Forget the name; the version it protected may be pruned. Raises NotFound."""
    with database.write() as session:
        snapshot = _named(session, name)
        if name in _busy(session):
            raise UsageError(f"snapshot {name!r} is part of a rollback that is not complete; restart memex first")
        history.delete_snapshot(session, name)
    vectors.untag(snapshot.head.generation, name)


def judged(database: Database, policy: Policy) -> Judged:
    """What `prune` would keep and remove, doing nothing."""
    with database.read() as session:
        return _judge(session, policy)


def prune(database: Database, vectors: Generations, policy: Policy) -> Judged:
    """Delete the snapshots that the policy does not keep; the versions that they protected may be pruned.

    Rows go first, all at once: a tag that a kill leaves behind is swept by the next start, while a row without its tag
    would promise a state that may be gone. Raises UsageError for a policy that keeps nothing.
    """
    with database.write() as session:
        done = _judge(session, policy)
        for one in done.removed:
            history.delete_snapshot(session, one.name)
    for generation in {one.head.generation for one in done.removed}:
        sweep_tags(database, vectors, generation)
    return done


def resolve(database: Database, when: str | None, now: datetime) -> State:
    """The state that `when` means: None the head, else a snapshot's name, a version, or a time.

    A time means the state that served then, or if its version was pruned the newest before it that was not. Raises
    NotFound when there is none.
    """
    with database.read() as session:
        head = heads.head(session)
        assert head is not None
        if when is None:
            return State(head)
        if snapshot := history.snapshot(session, when):
            return State(snapshot.head, snapshot.name)
        if when.isdecimal():
            known = len(when) < 19  # SQLite holds no larger number
            found = heads.at_version(session, head.generation, int(when)) if known else None
            if found is None:
                raise NotFound(
                    f"version {when} never served or is pruned; `memex snapshot list` shows what can be asked for"
                )
            return State(found)
        moment = parse_time(when, now)
        if moment is None:
            raise NotFound(f"no snapshot {when!r}, and it is neither a version nor a time such as '2 hours ago'")
        found = heads.at_time(session, moment)
        if found is None:
            raise NotFound(f"nothing is kept of {moment:%Y-%m-%d %H:%M:%S} UTC; memory begins after it")
        return State(found)


def plan(database: Database, name: str, only: str | None, *, now: datetime, check: Callable[[Head], None]) -> Plan:
    """What `roll_back` would do, doing nothing. Raises what it would raise."""
    _check_half(only)
    with database.read() as session:
        snapshot, head = _named(session, name), heads.head(session)
        assert head is not None
        check(snapshot.head)
        changed = [] if only == "model" else history.changes(session, head.move, snapshot.head.move)
        index, model = _halves(head, snapshot.head, only)
        held = history.to_hold(session, changed, name, now)
        staying = {one.document_id for one in held}
        touched = {change.document_id for change in changed}
        held_now = [one for one in holds.listing(session) if one.document_id in touched - staying]
        settings = heads.settings_at(session, head.move), heads.settings_of(session, snapshot.config)
    return Plan(
        difference(head, replace(index, adapter=model.adapter, query_adapter=model.query_adapter), changed, settings),
        tuple(sorted(held, key=lambda one: one.path)),
        tuple(one.path for one in held_now),
    )


def roll_back(
    database: Database,
    vectors: Generations,
    name: str,
    *,
    only: str | None,
    config: str,
    now: datetime,
    check: Callable[[Head], None],
    why: str = "",
) -> RolledBack:
    """Return the head to a snapshot: whole, or one half of it.

    `check` is given the head to return to and raises when something that it names is missing. `why` says what is wrong
    with the adapter that serves: it stands in the move's reason and with the adapter's run; nothing is wrong with the
    query adapter, so that stays. A kill at any point after the intent is written is completed by the next start
    (`complete`).
    """
    _check_half(only)
    with database.read() as session:
        target = _named(session, name)
        taken = {snapshot.name for snapshot in history.snapshots(session)}
    check(target.head)
    safety = protect(
        database,
        vectors,
        name=_free_name(f"before-rollback-{now:%Y%m%dT%H%M%SZ}", taken),
        reason=f"before the rollback to {name}",
        config=config,
        now=now,
    )
    intent = history.Intent(name, only, safety.name, why)
    with database.write() as session:
        history.add_snapshot(session, replace(safety, undoes="rollback"))
        history.write_intent(session, intent)
    try:
        return complete(database, vectors, intent, now)
    except Exception:  # it did not happen: the next start must not do it after all
        with database.write() as session:
            history.clear_intent(session)
        raise


def complete(database: Database, vectors: Generations, intent: history.Intent, now: datetime) -> RolledBack:
    """Carry out a rollback whose intent is written. Doing it twice is doing it once."""
    with database.read() as session:
        target, before = _named(session, intent.snapshot).head, heads.head(session)
        assert before is not None
    index, model = _halves(before, target, intent.only)
    version = index.version
    if intent.only != "model":
        version = vectors.restore(index.generation, index.version)
        sync_filesystem(vectors.folder)
    with database.write() as session:
        returned = replace(
            index,
            at=now,
            version=version,
            adapter=model.adapter,
            query_adapter=before.query_adapter if intent.why else model.query_adapter,
            reason=f"rollback to {intent.snapshot}"
            + (f" ({intent.only} only)" if intent.only else "")
            + (f": {intent.why}" if intent.why else ""),
        )
        head = heads.move_head(session, returned)
        if intent.why and before.adapter is not None:
            learning.abort_adapter(session, before.adapter, intent.why)
        changed = [] if intent.only == "model" else history.changes(session, before.move, target.move)
        held = history.reconcile(session, changed, head=head, snapshot=intent.snapshot)
    return RolledBack(intent.snapshot, intent.safety, head, held)


def sweep_tags(database: Database, vectors: Generations, generation: str) -> None:
    """Remove tags that a kill left without a snapshot, so that they protect nothing for ever."""
    with database.read() as session:
        named = {snapshot.name for snapshot in history.snapshots(session)}
    for tag in vectors.tags(generation).keys() - named:
        vectors.untag(generation, tag)


def _judge(session: Session, policy: Policy) -> Judged:
    head = heads.head(session)
    assert head is not None
    return judge(history.snapshots(session), policy, head=head, busy=_busy(session))


def _busy(session: Session) -> tuple[str, ...]:
    """The snapshots that a rollback needs which has begun and is not complete."""
    intent = history.intent(session)
    return () if intent is None else (intent.snapshot, intent.safety)


def _halves(before: Head, target: Head, only: str | None) -> tuple[Head, Head]:
    """The states that index and model are taken from."""
    return (before if only == "model" else target), (before if only == "index" else target)


def _before(adapter: int) -> str:
    """The name of the snapshot of the state before an adapter's promotion."""
    return f"before-adapter-{adapter:04d}"


def _promoted(adapter: int) -> str:
    """Why the head moved to an adapter."""
    return f"adapter {adapter} promoted"


def _named(session: Session, name: str) -> Snapshot:
    found = history.snapshot(session, name)
    if found is None:
        raise NotFound(f"no snapshot {name!r}; `memex snapshot list` shows those there are")
    return found


def _free_name(stem: str, taken: set[str]) -> str:
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _check_half(only: str | None) -> None:
    if only not in (None, *HALVES):
        raise UsageError(f"--only {only!r}: it is 'index' or 'model'")
