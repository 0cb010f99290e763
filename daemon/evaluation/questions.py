"""Where the questions of an evaluation come from: a file, the judged retrievals, or the documents themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from daemon.citations import MARK
from store.errors import UsageError
from store.memory import Memory
from store.types import Retrieval, State
from trainers import questions
from trainers.prompt import is_absent
from trainers.sources import mixed_drafts

FIELDS = ("question", "answers", "relevant")
AT_ONCE = 50  # documents whose chunks are read together
LATEST = 1000  # judged retrievals


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what is known to be right. It can be judged by its ranking, by its answer, or by both.

    `answers`: the accepted ones; () when the documents hold none; None when nobody said. `documents`: path -> grade.
    `passages`: texts, each in one chunk. Without either the ranking is not judged.
    """

    text: str
    answers: tuple[str, ...] | None = None
    documents: Mapping[str, float] | None = None
    passages: tuple[str, ...] = ()

    @property
    def judges_ranking(self) -> bool:
        return bool(self.documents or self.passages)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    kind: str  # file, logged, made, beir
    name: str
    questions: tuple[Question, ...]

    @property
    def fingerprint(self) -> str:
        """Equal where the same was asked and the same counts as right, wherever the documents lie by now."""
        asked = [[q.text, q.answers, sorted((q.documents or {}).values()), q.passages] for q in self.questions]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def sample(self, count: int | None) -> QuestionSet:
        """At most `count` of the questions; the same ones each time, and more of them include fewer."""
        if count is None or count >= len(self.questions):
            return self
        chosen = sorted(self.questions, key=lambda one: _digest(one.text))[:count]
        return QuestionSet(self.kind, self.name, tuple(one for one in self.questions if one in chosen))


def from_file(path: Path, paths: Collection[str]) -> QuestionSet:
    """Questions as JSON lines; `paths` are the documents of the state that is measured.

    Each line has `question` and, if known, `answers` (a list; an empty one says that the documents hold none) and
    `relevant`: a list of paths (or their ends) of documents, and of passages' texts. Raises UsageError with the line.
    """
    found = []
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            found.append(_question(line, paths, f"{path}, line {number}"))
    return _filled(QuestionSet("file", path.name, tuple(found)), f"{path}: there is no question in it")


def logged(memory: Memory, state: State) -> QuestionSet:
    """What users asked and judged: the accepted or corrected answer is right, and so are the documents that an accepted
    answer cites."""
    paths = {one.document_id: one.path for one in memory.live_at(state.head).values()}
    found: dict[str, Question] = {}
    for one in right_ones(memory, LATEST):  # newest first: the last word on a question counts
        found.setdefault(one.query, _judged(one, paths))
    complaint = "no answer was judged yet; `memex feedback` and `memex review` do that"
    return _filled(
        QuestionSet("logged", "", tuple(one for one in found.values() if one.answers is not None)), complaint
    )


def made(memory: Memory, state: State, count: int, seed: int = 0) -> QuestionSet:
    """Questions made from the documents, one of each in turn, whether or not retrieval finds their source."""
    documents = sorted(memory.live_at(state.head), key=lambda one: _digest(f"{seed}:{one}"))
    found: dict[str, Question] = {}
    for start in range(0, len(documents), AT_ONCE):
        for one in islice(_in_turn(_drafts(memory, state, documents[start : start + AT_ONCE], seed)), 2 * count):
            if len(found) < count:
                found.setdefault(one.text, one)
        if len(found) == count:
            break
    complaint = "no question could be made from the documents; ingest more, or give a file with --set"
    return _filled(QuestionSet("made", "", tuple(found.values())), complaint)


def _drafts(memory: Memory, state: State, documents: Sequence[str], seed: int) -> list[Iterator[Question]]:
    by_document: dict[str, list[Any]] = {one: [] for one in documents}
    for hit in memory.chunks(documents, state.head):
        by_document[hit.document_id].append(hit)

    def asked(hits: list[Any]) -> Iterator[Question]:
        for hit, draft in mixed_drafts(hits, seed):
            if draft.kind != "heading":  # nobody asks what a section begins with
                sentence = questions.sentences(hit.text)[draft.sentence]
                yield Question(draft.question, (draft.answer,), passages=(sentence,))

    return [asked(hits) for hits in by_document.values() if hits]


def _in_turn(queues: Iterable[Iterator[Question]]) -> Iterator[Question]:
    """One of each, then again, until all are empty."""
    for row in zip_longest(*queues):
        yield from (one for one in row if one is not None)


def right_ones(memory: Memory, limit: int) -> list[Retrieval]:
    """Of the latest retrievals whose answer was accepted or corrected those whose right answer was not taken back,
    newest first."""
    wrong = taken_back(memory)
    return [one for one in memory.journal.judged(limit) if (one.query, plain(right_answer(one))) not in wrong]


def taken_back(memory: Memory) -> frozenset[tuple[str, str]]:
    """Questions, each with the `plain` text of an answer that was called bad when it was given last."""
    last = {(question, plain(answer)): right for question, answer, right in memory.journal.verdicts()}
    return frozenset(one for one, right in last.items() if not right)


def right_answer(one: Retrieval) -> str:
    """Of a judged retrieval: the correction, or the accepted answer without its citation marks; "" where neither is."""
    return one.correction or plain(one.answer or "")


def plain(answer: str) -> str:
    """Equal for answers that differ in what they cite, or in their white space."""
    return " ".join(MARK.sub("", answer).split())


def _judged(one: Retrieval, paths: Mapping[str, str]) -> Question:
    answer = right_answer(one)
    if not answer:
        return Question(one.query)
    answers = () if is_absent(answer) else (answer,)
    if one.feedback != "good" or not answers:
        return Question(one.query, answers)
    of_chunk = {hit["chunk_id"]: hit["document_id"] for hit in one.hits}
    cited = {of_chunk[chunk_id] for _, chunk_id in one.extra.get("citations", ()) if chunk_id in of_chunk}
    return Question(one.query, answers, {paths[document]: 1.0 for document in cited if document in paths})


def _question(line: str, paths: Collection[str], where: str) -> Question:
    try:
        read = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(read, dict) or not isinstance(read.get("question"), str) or not read["question"].strip():
        raise UsageError(f'{where}: needs a question, as in {{"question": "...", "answers": ["..."]}}')
    if unknown := read.keys() - set(FIELDS):
        raise UsageError(f"{where}: {min(unknown)!r} is not known; there are: {', '.join(FIELDS)}")
    answers, relevant = (_texts(read.get(field), f"{where}: {field}") for field in FIELDS[1:])
    documents, passages = {}, []
    for name in relevant or ():
        named = [path for path in paths if path == name or path.endswith("/" + name.lstrip("/"))]
        if len(named) > 1 and name not in named:
            raise UsageError(f"{where}: {name!r} names {len(named)} documents; say more of the path, as in {named[0]}")
        if named or len(name.split()) == 1:  # one word that names no document: a document that is not there
            documents[name if name in named or not named else named[0]] = 1.0
        else:
            passages.append(name)
    return Question(read["question"], answers, documents, tuple(passages))


def _texts(value: Any, where: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise UsageError(f"{where} should be a list of texts, not {json.dumps(value)}")
    return tuple(value)


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read ({reason}); name a file of JSON lines") from None


def _filled(found: QuestionSet, complaint: str) -> QuestionSet:
    if not found.questions:
        raise UsageError(complaint)
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
