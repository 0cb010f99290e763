"""Question -> passages -> answer with citations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from daemon.citations import Citation, check
from daemon.settings import Settings
from store.errors import NotFound, Stopping
from store.memory import Found, Memory, new_id
from store.types import Filters, Hit, Passage, Retrieval, State
from trainers.model import LanguageModel
from trainers.prompt import ABSENT, is_absent, messages


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or ABSENT with the nearest passages, and everything needed to replay it."""

    retrieval_id: str | None  # None: it could not be recorded
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
    load: Callable[[], LanguageModel],
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

    Says ABSENT when nothing near enough is found, when the model says so, and when no passage holds what it says.
    `on_token` gets what the model says while it says it, not checked yet. Once `stop` says so the model stops, nothing
    is recorded, and Stopping is raised. With `keep` the answer is kept as a retrieval: nobody asked what an evaluation
    asks.
    """
    started = time.perf_counter()
    k = settings.retrieval.k if k is None else k
    found = memory.search(question, k, when=when, filters=filters)
    adapter = None if base else found.state.head.adapter
    remarks: tuple[str, ...] = ()
    text, prompt_tokens, new_tokens = ABSENT, 0, 0
    citations: tuple[Citation, ...] = ()
    near = [hit for hit in found.hits if hit.similarity >= settings.retrieval.min_score]
    if not near:
        remarks = (f"nothing found scores {settings.retrieval.min_score} or more (retrieval.min_score)",)
    else:
        model = load()
        model.use_adapter(_folder(memory, adapter))
        passages = fit(near, model, settings.retrieval.context_tokens)
        said = model.generate(
            messages(question, passages), settings.generator.max_new_tokens, on_token=on_token, stop=stop
        )
        if stop():
            raise Stopping("stopped before the answer was whole; ask again")
        prompt_tokens, new_tokens = said.prompt_tokens, said.new_tokens
        if is_absent(said.text):
            remarks = ("the model says that the passages do not hold it",)
        else:
            checked = check(said.text, passages)
            remarks = checked.remarks
            if checked.citations:
                text, citations = checked.text, checked.citations
            else:
                remarks = (*remarks, f"no passage holds what the model said: {said.text!r}")
    answer = Answer(
        retrieval_id=new_id(),
        text=text,
        citations=citations,
        remarks=remarks,
        found=found,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        seconds=time.perf_counter() - started,
    )
    if not keep:
        return answer
    mode = "base" if adapter is None else "adapter"
    if not _record(memory, question, answer, asked_with(k, filters), mode):
        remarks = (*answer.remarks, "not recorded: the disk of the state directory refuses")
        return replace(answer, retrieval_id=None, remarks=remarks)
    return answer


def record_search(memory: Memory, query: str, found: Found, seconds: float, asked: dict[str, object]) -> str | None:
    """Keep a search as a retrieval; returns its id, None if it could not be kept. `asked`: as `asked_with` gives it."""
    retrieval_id = new_id()
    kept = memory.journal.record(
        Retrieval(
            retrieval_id=retrieval_id,
            at=memory.clock(),
            query=query,
            mode="search",
            move=found.state.head.move,
            hits=_found_hits(found.hits),
            extra={**asked, "seconds": round(seconds, 4)},
        )
    )
    return retrieval_id if kept else None


def asked_with(k: int, filters: Filters | None) -> dict[str, object]:
    """What it takes beside the question to ask again, as a retrieval keeps it."""
    return {"k": k, "filters": {} if filters is None else {key: one for key, one in asdict(filters).items() if one}}


def fit(hits: Sequence[Hit], model: LanguageModel, context_tokens: int) -> list[Passage]:
    """As many passages as fit into `context_tokens` of the model's own tokens, best first; at least the best one."""
    passages: list[Passage] = []
    room = context_tokens
    for hit in hits:
        room -= model.count(hit.text)
        if passages and room < 0:
            break
        passages.append(Passage(hit.chunk_id, hit.document_id, hit.text, hit.location))
    return passages


def _folder(memory: Memory, adapter: int | None) -> Path | None:
    if adapter is None:
        return None
    folder = memory.adapter_folder(adapter)
    if not folder.is_dir():
        raise NotFound(f"adapter {adapter} is missing from {folder}; `memex rollback SNAPSHOT --only model`")
    return folder


def _record(memory: Memory, question: str, answer: Answer, asked: dict[str, object], mode: str) -> bool:
    assert answer.retrieval_id is not None
    return memory.journal.record(
        Retrieval(
            retrieval_id=answer.retrieval_id,
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
        )
    )


def _found_hits(hits: Sequence[Hit]) -> tuple[dict[str, object], ...]:
    return tuple(
        {"chunk_id": hit.chunk_id, "document_id": hit.document_id, "score": round(hit.score, 6)} for hit in hits
    )
