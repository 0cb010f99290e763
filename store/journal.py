"""What was asked and what was learned: retrievals, refresh runs, their examples, adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from store.catalogue import evaluations, forgetting, heads, learning
from store.catalogue.database import Database
from store.errors import DiskFailed, NotFound
from store.types import QUERY, Ended, Evaluation, Example, Head, Retrieval, Run

log = logging.getLogger(__name__)


class Journal:
    """Reached as `memory.journal`. Writing here needs no turn: each call is one transaction on rows of its own."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def record(self, head: Head, retrieval: Retrieval) -> bool:
        """Keep a retrieval of the state that `head` was; whether it is kept: what was found does not depend on that.

        It is not when the disk refuses, and when something was forgotten since, which it may have found. Needs no lock:
        a row of its own never meets another writer's. A kill loses none, a power cut perhaps the latest.
        """
        try:
            with self._database.log() as session:
                if not heads.stands(session, head):
                    return False
                learning.add_retrieval(session, retrieval)
        except DiskFailed as error:
            log.warning("this retrieval is not recorded: %s", error)
            return False
        return True

    def feedback(
        self, retrieval_id: str, verdict: str, correction: str | None = None, fault: str | None = None
    ) -> None:
        """Say whether a retrieval's answer was right, what was not, and what would have been. Raises NotFound."""
        self.retrieval(retrieval_id)
        with self._database.write() as session:
            learning.set_feedback(session, retrieval_id, verdict, correction, fault)

    def begin_run(self, *, trigger: str, move: int, incumbent: int | None) -> int:
        """Record that a refresh cycle begins; returns its number."""
        with self._database.write() as session:
            return learning.begin_run(session, at=self._clock(), trigger=trigger, move=move, incumbent=incumbent)

    def end_run(self, ended: Ended) -> None:
        """Record how a cycle ended without a promotion: `Memory.promote` records that itself."""
        with self._database.write() as session:
            learning.end_run(session, ended, self._clock())

    def add_examples(self, run: int, examples: Sequence[Example]) -> None:
        with self._database.write() as session:
            learning.add_examples(session, run, examples)

    def add_adapter(self, run: int, *, base: str, sha256: str, start: int | None = None) -> int:
        """Number a candidate, which went on from `start`; its files go to `adapter_folder`."""
        with self._database.write() as session:
            at = self._clock()
            return learning.add_adapter(session, run=run, at=at, base=base, sha256=sha256, start=start)

    def add_query_adapter(
        self, run: int, *, base: str, sha256: str, documents: Sequence[str], start: int | None = None
    ) -> int:
        """Number a candidate for the questions' side, with the ids of the documents that it learned from."""
        with self._database.write() as session:
            return learning.add_adapter(
                session,
                run=run,
                at=self._clock(),
                base=base,
                sha256=sha256,
                start=start,
                kind=QUERY,
                documents=documents,
            )

    def note_query(self, run: int, told: Mapping[str, Any]) -> None:
        """Keep what became of a cycle's query adapter, if that was no promotion (see `Memory.promote_query`)."""
        with self._database.write() as session:
            learning.note_query(session, run, told)

    def adapters(self) -> list[int]:
        """The numbers of all adapters that have files."""
        with self._database.read() as session:
            return learning.adapters(session)

    def retire_candidates(self, before: int) -> list[int]:
        """Let what cycles before this one tried in vain have no files any more; returns all adapters that have none,
        whose folders are to be removed, of which a kill may have left some. What served once stays."""
        with self._database.write() as session:
            learning.retire_candidates(session, before)
            return forgetting.retired(session)

    def retrieval(self, retrieval_id: str) -> Retrieval:
        with self._database.read() as session:
            found = learning.retrieval(session, retrieval_id)
        if found is None:
            raise NotFound(f"no retrieval {retrieval_id!r}; `memex ask --json` gives the id of each")
        return found

    def judged(self, limit: int) -> list[Retrieval]:
        """The latest retrievals whose answer was accepted or corrected, newest first."""
        with self._database.read() as session:
            return learning.judged(session, limit)

    def verdicts(self) -> list[tuple[str, str, bool]]:
        """What was said of answers, and the corrections: question, text, whether it was called right; in the order in
        which the answers were given."""
        with self._database.read() as session:
            return learning.verdicts(session)

    def unjudged(self, limit: int) -> list[Retrieval]:
        """The latest answers that nobody has judged, newest first."""
        with self._database.read() as session:
            return learning.unjudged(session, limit)

    def answers_since(self, move: int) -> list[Retrieval]:
        """What was answered from the states that this move of the head and later ones made, oldest first."""
        with self._database.read() as session:
            return learning.answers_since(session, move)

    def examples(self) -> list[Example]:
        """The examples of all cycles so far, oldest first."""
        with self._database.read() as session:
            return learning.examples(session)

    def runs(self) -> list[Run]:
        """The refresh cycles, newest first."""
        with self._database.read() as session:
            return learning.runs(session)

    def interrupted(self) -> list[Run]:
        """The cycles that a kill cut off, newest first."""
        with self._database.read() as session:
            return learning.interrupted(session)

    def run(self, number: int) -> Run:
        with self._database.read() as session:
            found = learning.run(session, number)
        if found is None:
            raise NotFound(f"no refresh {number}; `memex refresh list` shows them")
        return found

    def add_evaluation(self, one: Evaluation) -> Evaluation:
        """Keep an evaluation; returned with its number."""
        with self._database.write() as session:
            return replace(one, evaluation=evaluations.add(session, one))

    def evaluations(self) -> list[Evaluation]:
        """Newest first."""
        with self._database.read() as session:
            return evaluations.listing(session)

    def evaluation(self, number: int) -> Evaluation:
        with self._database.read() as session:
            found = evaluations.find(session, number)
        if found is None:
            raise NotFound(f"no evaluation {number}; `memex eval list` shows them")
        return found

    def retrievals_since_refresh(self) -> int:
        """How many retrievals came after the last refresh began."""
        with self._database.read() as session:
            latest = learning.runs(session)[:1]
            return learning.retrievals_since(session, latest[0].started_at if latest else None)
