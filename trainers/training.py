"""The training loop: pages -> the weights of the adapter that `lora.prepare` put on a model.

What costs the most on a CPU is done once or not at all: layers below the adapter run once per page, without gradient,
and what they give is kept; passages are read once for all questions on them; the output layer runs where an answer is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import TrainingFailed
from trainers import checkpoint, frozen, lora
from trainers.checkpoint import State
from trainers.keeping import Kept, drift
from trainers.packing import Page, answers_loss, inputs, total_weight

CHECKPOINT_SECONDS = 30.0
CHECKS = 6  # of the pages kept back, in a whole run
PATIENCE = 3  # checks without a better loss, after which training ends
# Adam's first steps move each weight by the whole rate, whatever its gradient: what was learned before is lost to them.
LEAST_WARMUP = 8  # steps, or half of a shorter run


@dataclass(frozen=True, slots=True)
class Training:
    """What a training run did.

    `losses`: the mean loss per answer token of each step; `checks`: (steps by then, the same on the pages kept back);
    `best`: the step whose weights were kept; `tokens`: read in training; `seconds`: wall-clock, with those before a
    kill.
    """

    losses: tuple[float, ...]
    checks: tuple[tuple[int, float], ...]
    best: int
    examples: int
    tokens: int
    seconds: float


def train(
    model: Any,
    pages: Sequence[Page],
    kept_back: Sequence[Page],
    settings: lora.Settings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    resume: Path | None = None,
    kept: Sequence[Kept] = (),
    adapter: str = lora.CANDIDATE,
) -> Training:
    """Train the adapter on `model` that `lora.prepare` made, or the one that `lora.fork` did under this name, and leave
    the best weights in it.

    Same model, pages, settings and thread count give the same weights on a CPU, as long as the time budget does not cut
    the run short; a kill changes nothing, where `resume` is a file to keep the state in. Ends after `max_steps` or
    `minutes`, whichever is first (steps that would not fit are not begun), or when the loss on `kept_back` no longer
    falls. Each step holds the model to one of `kept` as well. Raises TrainingFailed when there is nothing to train on
    or not one step fits.
    """
    import torch

    if not pages:
        raise TrainingFailed("there are no training examples; ingest more documents or ask more questions")
    weights = lora.trainable(model, adapter)
    optimizer = torch.optim.AdamW(weights.values(), lr=settings.lr, weight_decay=0.0)
    state = checkpoint.read(resume, weights, optimizer)
    started = written = time.monotonic()
    spent = state.seconds
    loss_of = _Loss(model, settings)
    planned = _planned(state, settings)
    for step, batch in enumerate(batches(pages, settings)):
        if step < state.step:
            continue  # done before the kill
        if step >= planned or state.done or _stalled(state):
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * rate(step, planned, settings.warmup)
        divisor, total = total_weight(batch), 0.0
        for page in batch:
            loss = loss_of(page) / divisor
            loss.backward()
            total += float(loss.detach())
        if kept:
            (settings.keep * drift(model, kept[step % len(kept)])).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.losses.append(total)
        state.examples += sum(len(page.items) for page in batch)
        state.tokens += sum(page.tokens for page in batch)
        state.seconds = spent + time.monotonic() - started
        planned = _planned(state, settings)
        if kept_back and (state.step >= planned or state.step % max(1, planned // CHECKS) == 0):
            _check(state, loss_of, kept_back, weights)
        progress(state.step, planned)
        if resume and time.monotonic() - written > CHECKPOINT_SECONDS:
            checkpoint.write(resume, state, weights, optimizer)
            written = time.monotonic()
    if not state.losses:
        raise TrainingFailed(f"not one step fits into {settings.minutes:g} minutes; raise refresh.minutes")
    if resume:
        state.done = True
        checkpoint.write(resume, state, weights, optimizer)
    with torch.no_grad():
        for name, best in state.best.items():
            weights[name].copy_(best)
    for weight in weights.values():
        weight.requires_grad_(False)
    return Training(
        losses=tuple(state.losses),
        checks=tuple(state.checks),
        best=state.best_step or state.step,
        examples=state.examples,
        tokens=state.tokens,
        seconds=state.seconds,
    )


def batches(pages: Sequence[Page], settings: lora.Settings) -> Iterator[list[Page]]:
    """The pages of one step after the other without end: each epoch all of them in another order, whole pages until
    there are `settings.batch` examples."""
    order = random.Random(settings.seed)
    batch: list[Page] = []
    while True:
        for page in order.sample(list(pages), len(pages)):
            batch.append(page)
            if sum(len(one.items) for one in batch) >= settings.batch:
                yield batch
                batch = []


def rate(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at a step, counted from 0: a linear rise over `warmup` of the steps, but at least
    LEAST_WARMUP of them or half of a shorter run, then a linear fall."""
    rising = max(1, round(warmup * steps), min(LEAST_WARMUP, steps // 2))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def _planned(state: State, settings: lora.Settings) -> int:
    """The steps that fit into the time, by those that are done, up to `max_steps`: the rate is zero after the last."""
    left = 60 * settings.minutes - state.seconds
    if not state.step:
        return settings.max_steps if left > 0 else 0
    return min(settings.max_steps, state.step + max(0, int(left / (state.seconds / state.step))))


class _Loss:
    """The loss of a page, with what the frozen layers give for it kept from the first time on."""

    def __init__(self, model: Any, settings: lora.Settings) -> None:
        self._model = model
        self._first = settings.first_layer
        self._kept: dict[int, Any] = {}  # by the page's identity: its tokens would be hashed each time
        self._precision = _autocast(model, settings)

    def __call__(self, page: Page) -> Any:
        decoder = self._model.get_decoder()
        given = inputs(page, self._model.device)
        with self._precision():
            if not self._first:
                hidden = decoder(**given, use_cache=False).last_hidden_state
            else:
                if id(page) not in self._kept:
                    self._kept[id(page)] = frozen.lower(decoder, self._first, given)
                hidden = frozen.upper(decoder, self._first, given, self._kept[id(page)])
            return answers_loss(self._model, page, hidden)


def _autocast(model: Any, settings: lora.Settings) -> Callable[[], AbstractContextManager[Any]]:
    import torch

    if not settings.bf16:
        return nullcontext
    return lambda: torch.autocast(model.device.type, dtype=torch.bfloat16)


def _check(state: State, loss_of: _Loss, kept_back: Sequence[Page], weights: Mapping[str, Any]) -> None:
    import torch

    with torch.no_grad():
        loss = sum(float(loss_of(page)) for page in kept_back) / total_weight(kept_back)
        if loss < min((one for _, one in state.checks), default=float("inf")):
            state.best = {name: weight.detach().clone() for name, weight in weights.items()}
            state.best_step = state.step
    state.checks.append((state.step, loss))


def _stalled(state: State) -> bool:
    """Whether the latest checks were all worse than the best."""
    return state.best_step > 0 and [step for step, _ in state.checks].index(state.best_step) < (
        len(state.checks) - PATIENCE
    )
