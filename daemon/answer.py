"""Question -> passages -> answer with citations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from daemon.aggregation import Said, read
from daemon.citations import Citation, check
from daemon.passages import gather
from daemon.settings import Settings
from store.errors import NotFound, Stopping
from store.memory import Found, Memory, new_id
from store.types import Filters, Head, Hit, Passage, Retrieval, State
from trainers.generator import Generator
from trainers.prompt import ABSENT, is_absent, messages

NOT_RECORDED = "not recorded: the disk of the state directory refuses, or something was forgotten meanwhile"
FRAME = 32  # tokens that a chat adds to its text, at most
Load = Callable[[Path | None], Generator]  # with the adapter of this folder, or without one


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or ABSENT with the nearest passages, and everything needed to replay it."""

    retrieval_id: str | None  # None: it was not recorded
    text: str
    citations: tuple[Citation, ...]
    remarks: tuple[str, ...]
    found: Found
    adapter: int | None
    prompt_tokens: int
    new_tokens: int
    seconds: float


def ask(
    memory: Memory,
    load: Load,
    settings: Settings,
    question: str,
    *,
    k: int | None = None,
    when: str | State | None = None,
    filters: Filters | None = None,
    base: bool = False,
    on_token: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    keep: bool = True,
) -> Answer:
    """Answer from the head (or a past state) with the adapter that serves there, or with the bare model for `base`.
    Behind an endpoint there are no adapters.

    Says ABSENT when nothing near enough is found, when the model says so, and when no passage holds what it says.
    `on_token` gets what the model says while it says it, not checked yet. Once `stop` says so the model stops, nothing
    is recorded, and Stopping is raised. With `keep` the answer is kept as a retrieval: nobody asked what an evaluation
    asks.
    """
    started = time.perf_counter()
    k = settings.retrieval.k if k is None else k
    found = memory.search(question, k, when=when, filters=filters)
    adapter = serving(found.state, settings, base)
    remarks, citations = found.remarks, tuple[Citation, ...]()
    text, prompt_tokens, new_tokens = ABSENT, 0, 0
    near = [hit for hit in found.hits if hit.similarity >= settings.retrieval.min_score]
    if not near:
        remarks = (*remarks, f"nothing found scores {settings.retrieval.min_score} or more (retrieval.min_score)")
    else:
        model = load(folder_of(memory, adapter))
        passages = given(memory, near, found.state.head, model, question, settings)
        said = read(
            *(settings.retrieval.aggregate, model, question, passages),
            *(settings.generator.max_new_tokens, on_token, stop),
        )
        if stop():
            raise Stopping("stopped before the answer was whole; ask again")
        prompt_tokens, new_tokens = said.prompt_tokens, said.new_tokens
        text, citations, checked = _checked(said)
        remarks = (*remarks, *checked)
    answer = Answer(
        retrieval_id=None,
        text=text,
        citations=citations,
        remarks=remarks,
        found=found,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        seconds=time.perf_counter() - started,
    )
    return record(memory, settings, question, answer, asked_with(k, filters)) if keep else answer


def serving(state: State, settings: Settings, base: bool = False) -> int | None:
    """The adapter that answers in a state. Behind an endpoint there is none."""
    return None if base or settings.generator.endpoint else state.head.adapter


def folder_of(memory: Memory, adapter: int | None) -> Path | None:
    """Where an adapter's files are. Raises NotFound when they are not there."""
    if adapter is None:
        return None
    folder = memory.adapter_folder(adapter)
    if not folder.is_dir():
        raise NotFound(f"adapter {adapter} is missing from {folder}; `memex rollback SNAPSHOT --only model`")
    return folder


def record(memory: Memory, settings: Settings, question: str, answer: Answer, asked: dict[str, object]) -> Answer:
    """Keep an answer as a retrieval; returned with the retrieval's id, without one if the disk refused it."""
    retrieval_id = new_id()
    mode = "endpoint" if settings.generator.endpoint else "base" if answer.adapter is None else "adapter"
    kept = memory.journal.record(
        answer.found.state.head,
        Retrieval(
            retrieval_id=retrieval_id,
            at=memory.clock(),
            query=question,
            mode=mode,
            move=answer.found.state.head.move,
            hits=_found_hits(answer.found.hits),
            answer=answer.text,
            extra={
                **asked,
                "adapter": answer.adapter,
                "citations": [[citation.number, citation.passage.chunk_id] for citation in answer.citations],
                "prompt_tokens": answer.prompt_tokens,
                "new_tokens": answer.new_tokens,
                "seconds": round(answer.seconds, 3),
            },
        ),
    )
    if kept:
        return replace(answer, retrieval_id=retrieval_id)
    return replace(answer, remarks=(*answer.remarks, NOT_RECORDED))


def record_search(memory: Memory, query: str, found: Found, seconds: float, asked: dict[str, object]) -> str | None:
    """Keep a search as a retrieval; returns its id, None if it could not be kept. `asked`: as `asked_with` gives it."""
    retrieval_id = new_id()
    kept = memory.journal.record(
        found.state.head,
        Retrieval(
            retrieval_id=retrieval_id,
            at=memory.clock(),
            query=query,
            mode="search",
            move=found.state.head.move,
            hits=_found_hits(found.hits),
            extra={**asked, "seconds": round(seconds, 4)},
        ),
    )
    return retrieval_id if kept else None


def asked_with(k: int, filters: Filters | None) -> dict[str, object]:
    """What it takes beside the question to ask again, as a retrieval keeps it; `filters_of` reads it."""
    narrowed = {} if filters is None else {key: one for key, one in asdict(filters).items() if one}
    return {
        "k": k,
        "filters": {key: one.isoformat() if isinstance(one, datetime) else one for key, one in narrowed.items()},
    }


def filters_of(kept: Mapping[str, str]) -> Filters:
    """What `asked_with` wrote."""
    given: dict[str, Any] = {
        key: datetime.fromisoformat(one) if key.endswith(("_after", "_before")) else one for key, one in kept.items()
    }
    return Filters(**given)


def given(
    memory: Memory, hits: Sequence[Hit], head: Head, model: Generator, question: str, settings: Settings
) -> list[Passage]:
    """The passages for the model, in the order of the setting: what its window and `context_tokens` have room for."""
    taken = settings.generator.max_new_tokens + sum(model.count(one["content"]) for one in messages(question, []))
    room = min(settings.retrieval.context_tokens, model.window - taken - FRAME)
    passages = gather(memory, hits, head, model.count, room)
    together = settings.retrieval.aggregate != "one_by_one"
    return passages[::-1] if together and settings.retrieval.order == "best_last" else passages


def _checked(said: Said) -> tuple[str, tuple[Citation, ...], tuple[str, ...]]:
    """The answer that is given for what the model said, its citations, and remarks."""
    if is_absent(said.text):
        return ABSENT, (), ("the model says that the passages do not hold it",)
    checked = check(said.text, said.passages)
    if not checked.citations:
        return ABSENT, (), (*checked.remarks, f"no passage holds what the model said: {said.text!r}")
    return checked.text, checked.citations, checked.remarks


def _found_hits(hits: Sequence[Hit]) -> tuple[dict[str, object], ...]:
    return tuple(
        {"chunk_id": hit.chunk_id, "document_id": hit.document_id, "score": round(hit.score, 6)} for hit in hits
    )
