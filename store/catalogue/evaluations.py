"""What evaluations measured. Figures only: no question and no text is kept, so there is nothing in them to forget."""

from __future__ import annotations

from sqlmodel import Session, col, select

from store.catalogue.tables import EvaluationRow
from store.types import Evaluation


def add(session: Session, one: Evaluation) -> int:
    """Keep an evaluation under the next number, which is returned; its own `evaluation` is not looked at."""
    row = EvaluationRow(
        at=one.at,
        state=dict(one.state),
        config=one.config,
        kind=one.kind,
        name=one.name,
        questions=one.questions,
        asked=one.asked,
        metrics=dict(one.metrics),
    )
    session.add(row)
    session.flush()
    assert row.evaluation is not None
    return row.evaluation


def listing(session: Session) -> list[Evaluation]:
    """Newest first."""
    return [
        _as_evaluation(row)
        for row in session.exec(select(EvaluationRow).order_by(col(EvaluationRow.evaluation).desc()))
    ]


def find(session: Session, number: int) -> Evaluation | None:
    row = session.get(EvaluationRow, number)
    return None if row is None else _as_evaluation(row)


def _as_evaluation(row: EvaluationRow) -> Evaluation:
    assert row.evaluation is not None
    return Evaluation(
        evaluation=row.evaluation,
        at=row.at,
        state=row.state,
        config=row.config,
        kind=row.kind,
        name=row.name,
        questions=row.questions,
        asked=row.asked,
        metrics=row.metrics,
    )
