"""Retrievals, refresh runs, their examples, and adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, update
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from store.catalogue.tables import AdapterRow, ExampleRow, RetrievalRow, RunRow
from store.types import GENERATOR, Ended, Example, Passage, Retrieval, Run

AT_ONCE = 1000  # rows that are read
# Or there is only something to say against what it cites.
_CALLED_RIGHT = or_(col(RetrievalRow.feedback) == "good", col(RetrievalRow.fault) == "citation")
_ADD_RETRIEVAL = insert(RetrievalRow.__table__)  # type: ignore[attr-defined]


def add_retrieval(session: Session, retrieval: Retrieval) -> None:
    """By one plain statement, compiled once: who searches waits for it."""
    session.connection().execute(
        _ADD_RETRIEVAL,
        {
            "retrieval_id": retrieval.retrieval_id,
            "at": retrieval.at,
            "query": retrieval.query,
            "mode": retrieval.mode,
            "move": retrieval.move,
            "hits": [dict(hit) for hit in retrieval.hits],
            "answer": retrieval.answer,
            "extra": dict(retrieval.extra),
        },
    )


def retrieval(session: Session, retrieval_id: str) -> Retrieval | None:
    row = session.get(RetrievalRow, retrieval_id)
    return None if row is None else _as_retrieval(row)


def set_feedback(session: Session, retrieval_id: str, feedback: str, correction: str | None, fault: str | None) -> None:
    row = session.get(RetrievalRow, retrieval_id)
    assert row is not None
    row.feedback, row.correction, row.fault = feedback, correction, fault


def judged(session: Session, limit: int) -> list[Retrieval]:
    """The newest retrievals whose answer was called right, or was corrected; newest first."""
    query = select(RetrievalRow).where(or_(_CALLED_RIGHT, col(RetrievalRow.correction).is_not(None)))
    return _newest(session, query, limit)


def verdicts(session: Session) -> list[tuple[str, str, bool]]:
    """Each judged answer and each correction: question, text, whether it was called right; oldest first."""
    given = col(RetrievalRow.answer), _CALLED_RIGHT, col(RetrievalRow.correction)
    judged = select(RetrievalRow.query, *given).where(col(RetrievalRow.feedback).is_not(None))
    found = []
    for question, answer, right, correction in session.exec(judged.order_by(col(RetrievalRow.at))):
        if answer is not None:
            found.append((question, answer, bool(right)))
        if correction is not None:
            found.append((question, correction, True))
    return found


def unjudged(session: Session, limit: int) -> list[Retrieval]:
    """The newest answers that nobody has judged; newest first."""
    query = select(RetrievalRow).where(col(RetrievalRow.answer).is_not(None), col(RetrievalRow.feedback).is_(None))
    return _newest(session, query, limit)


def answers_since(session: Session, move: int) -> list[Retrieval]:
    """The answers from the states that this move and later ones made, oldest first."""
    query = select(RetrievalRow).where(col(RetrievalRow.answer).is_not(None), RetrievalRow.move >= move)
    return [_as_retrieval(row) for row in session.exec(query.order_by(col(RetrievalRow.at)))]


def _newest(session: Session, query: SelectOfScalar[RetrievalRow], limit: int) -> list[Retrieval]:
    rows = session.exec(query.order_by(col(RetrievalRow.at).desc()).limit(limit))
    return [_as_retrieval(row) for row in rows]


def retrievals_since(session: Session, when: datetime | None) -> int:
    query = select(func.count()).select_from(RetrievalRow)
    if when is not None:
        query = query.where(RetrievalRow.at > when)
    return int(session.exec(query).one())


def begin_run(session: Session, *, at: datetime, trigger: str, move: int, incumbent: int | None) -> int:
    row = RunRow(started_at=at, trigger=trigger, move=move, incumbent=incumbent)
    session.add(row)
    session.flush()
    assert row.run is not None
    return row.run


def end_run(session: Session, ended: Ended, at: datetime) -> None:
    row = session.get(RunRow, ended.run)
    assert row is not None
    row.finished_at, row.decision, row.reason = at, ended.decision, ended.reason
    row.adapter, row.examples, row.metrics = ended.adapter, ended.examples, dict(ended.metrics)


def interrupt_runs(session: Session) -> None:
    """A run that was going on when the process ended may be gone on with."""
    for row in session.exec(select(RunRow).where(col(RunRow.finished_at).is_(None))):
        row.decision, row.reason = "interrupted", "memex ended during the cycle; the next one goes on with it"


def interrupted(session: Session) -> list[Run]:
    """Newest first."""
    query = select(RunRow).where(RunRow.decision == "interrupted").order_by(col(RunRow.run).desc())
    return [_as_run(row) for row in session.exec(query)]


def runs(session: Session) -> list[Run]:
    """Newest first."""
    return [_as_run(row) for row in session.exec(select(RunRow).order_by(col(RunRow.run).desc()))]


def run(session: Session, number: int) -> Run | None:
    row = session.get(RunRow, number)
    return None if row is None else _as_run(row)


def add_examples(session: Session, run: int, examples: Sequence[Example]) -> None:
    for one in examples:
        session.add(
            ExampleRow(
                run=run, example_id=one.example_id, split=one.split, document_id=one.document_id, body=_body(one)
            )
        )


def examples(session: Session, run: int | None = None) -> list[Example]:
    """The examples of one run, or of all runs, oldest run first. They share the passages that they have in common:
    there are years of them."""
    query = select(ExampleRow.body).order_by(col(ExampleRow.run), col(ExampleRow.example_id))
    if run is not None:
        query = query.where(ExampleRow.run == run)
    known: dict[Passage, Passage] = {}
    return [_as_example(body, known) for body in session.exec(query.execution_options(yield_per=AT_ONCE))]


def note_query(session: Session, run: int, told: Mapping[str, Any]) -> None:
    """What became of a cycle's query adapter, kept beside what its generator's part measured."""
    row = session.get(RunRow, run)
    assert row is not None
    row.metrics = {**row.metrics, "query": dict(told)}


def add_adapter(
    session: Session,
    *,
    run: int,
    at: datetime,
    base: str,
    sha256: str,
    start: int | None,
    kind: str = GENERATOR,
    documents: Sequence[str] = (),
) -> int:
    row = AdapterRow(
        kind=kind,
        run=run,
        start=start,
        documents=list(documents),
        created_at=at,
        base=base,
        sha256=sha256,
        state="candidate",
    )
    session.add(row)
    session.flush()
    assert row.adapter is not None
    return row.adapter


def adapters(session: Session) -> list[int]:
    """The numbers of all adapters that have files."""
    rows = session.exec(select(AdapterRow.adapter).where(AdapterRow.state != "retired"))
    return sorted(adapter for adapter in rows if adapter is not None)


def retire_candidates(session: Session, before: int) -> None:
    """The adapters that runs before this one tried and that never served are to have files no more."""
    tried = col(AdapterRow.run) < before, col(AdapterRow.state) == "candidate"
    session.execute(update(AdapterRow).where(*tried).values(state="retired", documents=[]))


def set_adapter_state(session: Session, adapter: int, state: str) -> None:
    row = session.get(AdapterRow, adapter)
    assert row is not None
    row.state = state


def abort_adapter(session: Session, adapter: int, why: str) -> None:
    """It was promoted, and is found wanting: it is no choice when another one is forgotten, and its run says why."""
    row = session.get(AdapterRow, adapter)
    run = session.get(RunRow, row.run) if row else None
    assert row is not None
    assert run is not None
    row.state, run.reason = "aborted", f"{run.reason}; {why}"


def _body(example: Example) -> dict[str, Any]:
    return {
        "example_id": example.example_id,
        "kind": example.kind,
        "question": example.question,
        "passages": [list(astuple(passage)) for passage in example.passages],
        "target": example.target,
        "answers": list(example.answers),
        "gold": example.gold,
        "document_id": example.document_id,
        "episode": example.episode,
        "split": example.split,
        "weight": example.weight,
    }


def _as_example(body: Mapping[str, Any], known: dict[Passage, Passage]) -> Example:
    passages = (Passage(*passage) for passage in body["passages"])
    return Example(
        **{
            **body,
            "passages": tuple(known.setdefault(passage, passage) for passage in passages),
            "answers": tuple(body["answers"]),
        }
    )


def _as_retrieval(row: RetrievalRow) -> Retrieval:
    return Retrieval(
        retrieval_id=row.retrieval_id,
        at=row.at,
        query=row.query,
        mode=row.mode,
        move=row.move,
        hits=tuple(row.hits),
        answer=row.answer,
        feedback=row.feedback,
        fault=row.fault,
        correction=row.correction,
        extra=row.extra,
    )


def _as_run(row: RunRow) -> Run:
    assert row.run is not None
    return Run(
        run=row.run,
        started_at=row.started_at,
        finished_at=row.finished_at,
        trigger=row.trigger,
        move=row.move,
        decision=row.decision,
        reason=row.reason,
        adapter=row.adapter,
        incumbent=row.incumbent,
        examples=row.examples,
        metrics=row.metrics,
    )
