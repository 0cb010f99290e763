"""Question -> passages -> answer with citations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from daemon.aggregation import Said, read
from daemon.citations import Citation, check
from daemon.passages import gather
from daemon.settings import Settings
from store.errors import AnotherModel, NotFound, Stopping
from store.memory import Found, Memory
from store.types import Filters, Head, Hit, Passage, State
from trainers import lora
from trainers.experts import ALONE, Shares
from trainers.experts import choose as choose_experts
from trainers.generator import Generator
from trainers.prompt import ABSENT, is_absent, messages

FRAME = 32  # tokens that a chat adds to its text, at most
Choose = Callable[[State], int | None]  # which adapter answers in a state, None is the bare model


class Load(Protocol):
    """The language model with the adapter of a folder, or without one; see `LanguageModel.use_adapter`."""

    def __call__(self, adapter: Path | None, shares: Shares = ALONE, /) -> Generator: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or ABSENT with the nearest passages, and everything needed to replay it."""

    text: str
    citations: tuple[Citation, ...]
    remarks: tuple[str, ...]
    found: Found
    adapter: int | None
    prompt_tokens: int
    new_tokens: int
    seconds: float
    experts: Shares = field(default_factory=dict)  # of the adapter, by domain; {}: its shared weights alone
    grounded: bool | None = None  # whether a passage holds what the model said; None: it said that there is no answer
    retrieval_id: str | None = None  # None: it was not recorded (see `recording`)


def of_head(state: State) -> int | None:
    """The adapter that a state names."""
    return state.head.adapter


def bare(_state: State) -> None:
    """No adapter, whatever the state."""


def ask(
    memory: Memory,
    load: Load,
    settings: Settings,
    question: str,
    *,
    k: int | None = None,
    when: str | State | None = None,
    filters: Filters | None = None,
    choose: Choose = of_head,
    on_token: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Answer:
    """Answer from the head (or a past state) with the adapter that `choose` names. Behind an endpoint there are none.

    Says ABSENT when nothing near enough is found, when the model says so, and when no passage holds what it says.
    `on_token` gets what the model says while it says it, not checked yet. Once `stop` says so the model stops, and
    Stopping is raised. Nothing is recorded here: nobody asked what an evaluation or a replay asks.
    """
    started = time.perf_counter()
    k = settings.retrieval.k if k is None else k
    found = memory.search(question, k, when=when, filters=filters)
    adapter = serving(found.state, settings, choose)
    remarks, citations = found.remarks, tuple[Citation, ...]()
    text, claims, prompt_tokens, new_tokens = ABSENT, False, 0, 0
    shares: Shares = ALONE
    near = [hit for hit in found.hits if hit.similarity >= settings.retrieval.min_score]
    if not near:
        remarks = (*remarks, f"nothing found scores {settings.retrieval.min_score} or more (retrieval.min_score)")
    else:
        folder = folder_of(memory, adapter)
        try:
            model = load(folder)
        except AnotherModel as error:
            adapter, folder, remarks = None, None, (*remarks, f"the model without an adapter answers: {error}")
            model = load(None)
        passages = passages_for(memory, near, found.state.head, model, question, settings)
        shares = shares_for(folder, passages)
        if shares != ALONE:
            model = load(folder, shares)
        said = read(
            *(settings.retrieval.aggregate, model, question, passages),
            *(settings.generator.max_new_tokens, on_token, stop),
        )
        if stop():
            raise Stopping("stopped before the answer was whole; ask again")
        prompt_tokens, new_tokens = said.prompt_tokens, said.new_tokens
        claims = not is_absent(said.text)
        text, citations, checked = _checked(said)
        remarks = (*remarks, *checked)
    return Answer(
        text=text,
        citations=citations,
        remarks=remarks,
        found=found,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        seconds=time.perf_counter() - started,
        experts={} if shares == ALONE else shares,
        grounded=bool(citations) if claims else None,
    )


def serving(state: State, settings: Settings, choose: Choose = of_head) -> int | None:
    """The adapter that answers in a state. Behind an endpoint there is none."""
    return None if settings.generator.endpoint else choose(state)


def folder_of(memory: Memory, adapter: int | None) -> Path | None:
    """Where an adapter's files are. Raises NotFound when they are not there."""
    if adapter is None:
        return None
    folder = memory.adapter_folder(adapter)
    if not folder.is_dir():
        raise NotFound(f"adapter {adapter} is missing from {folder}; `memex rollback SNAPSHOT --only model`")
    return folder


def shares_for(folder: Path | None, passages: Sequence[Passage]) -> Shares:
    """What of the adapter in a folder answers a question on these passages: its shared weights, or experts of it."""
    return choose_experts((one.domain for one in passages), lora.experts(folder) if folder else ())


def passages_for(
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
