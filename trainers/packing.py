"""Several questions on the same passages as one sequence.

Their prompts begin alike: that part is read once, and each question with its answer sees it and itself alone, at the
positions that it would have by itself. So the loss and its gradient are those of the questions one by one, for a third
of the tokens (packing as in Krell et al. 2021, with a prefix that is shared).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any


@dataclass(frozen=True, slots=True)
class Item:
    """One training item as token ids; only the answer's tokens are learned, each with `weight`."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Page:
    """Items whose prompts have their first `shared` tokens in common; each prompt has more than these."""

    items: tuple[Item, ...]
    shared: int

    @property
    def tokens(self) -> int:
        """How many the sequence has."""
        return self.shared + sum(len(item.prompt) + len(item.answer) - self.shared for item in self.items)

    @property
    def weight(self) -> float:
        """Of all the answers' tokens together."""
        return sum(item.weight * len(item.answer) for item in self.items)


def page(items: Sequence[Item]) -> Page:
    """One page of all these items."""
    return Page(tuple(items), shared_tokens([item.prompt for item in items]))


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts have in common, leaving each at least one of its own."""
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)


def inputs(page: Page, device: Any) -> dict[str, Any]:
    """What a decoder takes for the page: ids and positions, shape (1, tokens), and the mask, (1, 1, tokens, tokens)."""
    import torch

    ids = list(page.items[0].prompt[: page.shared])
    positions, owner = list(range(page.shared)), [0] * page.shared
    for number, item in enumerate(page.items, start=1):
        tail = [*item.prompt[page.shared :], *item.answer]
        ids += tail
        positions += range(page.shared, page.shared + len(tail))
        owner += [number] * len(tail)
    given = {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "attention_mask": None,
    }
    if len(page.items) > 1:
        owners = torch.tensor(owner, device=device)
        seen = (owners[None, :] == 0) | (owners[:, None] == owners[None, :])
        seen &= torch.ones(len(ids), len(ids), dtype=torch.bool, device=device).tril()
        blocked = torch.zeros(seen.shape, device=device).masked_fill_(~seen, torch.finfo(torch.float32).min)
        given["attention_mask"] = blocked[None, None]
    return given


def answers_loss(model: Any, page: Page, hidden: Any) -> Any:
    """The cross-entropy over the answers' tokens of a page, summed with the items' weights: a scalar tensor.

    `hidden` is the decoder's last state, shape (1, tokens, width). The output layer, a third of a small model's work,
    is computed only where an answer token is predicted.
    """
    import torch

    places: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    start = page.shared
    for item in page.items:
        first = start + len(item.prompt) - page.shared
        places += range(first - 1, first + len(item.answer) - 1)
        targets += item.answer
        weights += [item.weight] * len(item.answer)
        start = first + len(item.answer)
    logits = model.get_output_embeddings()(hidden[0, places]).float()
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(targets, device=hidden.device), reduction="none")
    return (losses * torch.tensor(weights, device=hidden.device)).sum()  # autocast would round a product of matrices


def total_weight(pages: Iterable[Page]) -> float:
    """What to divide the pages' losses by for the mean per answer token."""
    return sum(page.weight for page in pages)
