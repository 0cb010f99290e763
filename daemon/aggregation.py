"""How passages are given to the language model: all at once, one by one, or summarised first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from daemon.citations import check
from daemon.settings import Aggregate
from store.types import Passage
from trainers.generator import Generation, Generator
from trainers.prompt import ABSENT, is_absent, messages, summary_messages

Say = Callable[..., Generation]  # `Generator.generate`, the number of new tokens and when to stop given


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said, and the passages that its marks `[1]` name."""

    text: str
    passages: tuple[Passage, ...]
    prompt_tokens: int
    new_tokens: int


def read(
    how: Aggregate,
    model: Generator,
    question: str,
    passages: Sequence[Passage],
    max_new_tokens: int,
    on_token: Callable[[str], None] | None,
    stop: Callable[[], bool],
) -> Said:
    """The model's answer to a question, unchecked. `on_token` is told of the answer only, not of what leads to it."""
    say = partial(model.generate, max_new_tokens=max_new_tokens, stop=stop)
    if how == "one_by_one":
        return _one_by_one(say, question, passages, on_token, stop)
    if how == "summarise":
        return _summarised(say, question, passages, on_token, stop)
    return _at_once(say, question, passages, passages, on_token)


def _at_once(
    say: Say,
    question: str,
    shown: Sequence[Passage],
    passages: Sequence[Passage],
    on_token: Callable[[str], None] | None,
) -> Said:
    """An answer from the texts in `shown`, which stand for `passages`."""
    said = say(messages(question, shown), on_token=on_token)
    return Said(said.text, tuple(passages), said.prompt_tokens, said.new_tokens)


def _one_by_one(
    say: Say,
    question: str,
    passages: Sequence[Passage],
    on_token: Callable[[str], None] | None,
    stop: Callable[[], bool],
) -> Said:
    """Each passage is asked alone. The answer that its passage supports most is kept, of equals the first."""
    best, support = Said(ABSENT, (), 0, 0), 0.0
    prompt_tokens = new_tokens = 0
    for passage in passages:
        if stop():
            break
        said = say(messages(question, [passage]))
        prompt_tokens += said.prompt_tokens
        new_tokens += said.new_tokens
        held = max((one.support for one in check(said.text, [passage]).citations), default=0.0)
        if held > support and not is_absent(said.text):
            best, support = Said(said.text, (passage,), 0, 0), held
    if on_token:
        on_token(best.text)
    return replace(best, prompt_tokens=prompt_tokens, new_tokens=new_tokens)


def _summarised(
    say: Say,
    question: str,
    passages: Sequence[Passage],
    on_token: Callable[[str], None] | None,
    stop: Callable[[], bool],
) -> Said:
    """What each passage says of the question stands for it. One that says nothing is left out."""
    kept, summaries = [], []
    prompt_tokens = new_tokens = 0
    for passage in passages:
        if stop():
            break
        said = say(summary_messages(question, passage))
        prompt_tokens += said.prompt_tokens
        new_tokens += said.new_tokens
        if said.text and not is_absent(said.text):
            kept.append(passage)
            summaries.append(replace(passage, text=said.text))
    if not kept:
        return Said(ABSENT, (), prompt_tokens, new_tokens)
    answer = _at_once(say, question, summaries, kept, on_token)
    return replace(
        answer, prompt_tokens=answer.prompt_tokens + prompt_tokens, new_tokens=answer.new_tokens + new_tokens
    )
