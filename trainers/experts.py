"""Experts: adapters that go on from the shared one on the examples of one domain, and which of them answer a question.

The domains of a question's passages vote. All of one domain: its expert answers. Mixed: the experts together, each with
the share of the passages that is its own, and the shared weights with what is left. There is nothing to guess: what the
sources say of their documents is known, where Arrow (Ostapenko et al. 2024) asks the weights at each token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from store.types import Example
from trainers import lora
from trainers.keeping import Kept
from trainers.lora import SHARED, Attached
from trainers.packing import Page
from trainers.training import Training, train

Shares = Mapping[str, float]  # by domain, together 1

ALONE: Shares = {SHARED: 1.0}
ENOUGH = 48  # examples of a domain that an expert is worth training on: a dozen steps for one look at each
MOST = 6  # experts of an adapter, those of the domains with the most examples
BUDGET = 1 / 3  # of the minutes of training, where there are experts to train


@dataclass(frozen=True, slots=True)
class Expert:
    """One that was trained. `folder`: its name among the adapter's experts."""

    folder: str
    attached: Attached
    examples: int
    training: Training


def choose(domains: Iterable[str], experts: Collection[str]) -> Shares:
    """What answers a question on passages of these domains, where there are experts for some: the same for the same
    domains in any order. No passages: the shared weights alone."""
    votes = Counter(domain if domain in experts else SHARED for domain in domains)
    return {domain: votes[domain] / votes.total() for domain in sorted(votes)} or ALONE


def home(page: Sequence[Example]) -> str:
    """The domain that examples on the same passages teach: that of more than half of the passages, else SHARED."""
    domain, count = Counter(passage.domain for passage in page[0].passages).most_common(1)[0]
    return domain if 2 * count > len(page[0].passages) else SHARED


def plan(pages: Sequence[Sequence[Example]]) -> dict[str, int]:
    """The domains to train experts for, with how many examples each has. None where all examples are of one domain: the
    shared adapter is its expert."""
    counts = Counter[str]()
    for page in pages:
        counts[home(page)] += len(page)
    if len(counts) < 2:
        return {}
    enough = [(domain, count) for domain, count in counts.most_common() if domain != SHARED and count >= ENOUGH]
    return dict(enough[:MOST])


def rest(settings: lora.Settings, planned: Mapping[str, int]) -> lora.Settings:
    """The settings for the shared adapter: the experts' share of the time is kept for them, if there will be any."""
    return replace(settings, minutes=settings.minutes * (1 - BUDGET)) if planned else settings


def train_experts(
    model: Any,
    planned: Mapping[str, int],
    pages: Mapping[str, Sequence[Page]],
    kept_back: Mapping[str, Sequence[Page]],
    settings: lora.Settings,
    adapter: Path,
    checkpoint: Path,
    kept: Sequence[Kept],
    tell: Callable[[str, int, int], None],
) -> dict[str, Expert]:
    """Train an expert for each domain of `planned` from the trained adapter that `lora.prepare` made, and save them in
    the folder `adapter`. They stay on the model. `pages` and `kept_back` are by domain, as `home` says.

    They divide BUDGET of the minutes by their examples, and none goes over its examples more often than the shared
    adapter goes over all of them. Each keeps its state beside `checkpoint`: a kill changes nothing.
    """
    total = sum(len(page.items) for some in pages.values() for page in some)
    made = {}
    for domain, examples in planned.items():
        folder = lora.expert_folder(domain)
        own = replace(
            settings,
            minutes=settings.minutes * BUDGET * examples / sum(planned.values()),
            max_steps=max(1, round(settings.max_steps * examples / total)),
        )
        name = f"expert-{folder[-8:]}"
        lora.fork(model, settings, name)
        training = train(
            *(model, pages[domain], kept_back.get(domain, ()), own),
            progress=partial(tell, f"train {domain}"),
            kept=kept,
            resume=checkpoint.with_stem(f"{checkpoint.stem}-{folder}"),
            adapter=name,
        )
        sha256 = lora.save(model, adapter / lora.EXPERTS / folder, settings, name)
        made[domain] = Expert(folder, Attached(name, sha256), examples, training)
    return made


def name_of(attached: Mapping[str, Attached], shares: Shares) -> str:
    """What tells the answers of these shares from those of others: of one adapter alone the sha256 of its weights."""
    parts = [(share, attached[domain].sha256) for domain, share in shares.items()]
    return parts[0][1] if len(parts) == 1 else " + ".join(f"{share:.4f} {sha256}" for share, sha256 in parts)


def undivided(examples: Iterable[Example]) -> list[Example]:
    """The examples as if no source had a domain: of them no expert is made or asked."""
    return [
        replace(one, passages=tuple(replace(passage, domain=SHARED) for passage in one.passages)) for one in examples
    ]
