"""What the model could do before, kept while it learns: on plain text it goes on saying what the base model says.

Distillation from the model as it was (Li & Hoiem, "Learning without Forgetting", 2016), on text that no task is about
and that no evaluation reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainers import frozen

TEXTS = (
    "The train to the coast leaves at a quarter past seven and calls at every village on the way. In winter it is"
    " often late, because the points freeze, and people have learned to bring a book.",
    "To make the soup, fry two onions slowly in butter until they are soft and brown. Add a litre of stock and a "
    "bay leaf, let it simmer for half an hour, and serve it with toasted bread and cheese.",
    '"You could have told me," said Anna. "I did not know it myself," he answered, and put the letter back into '
    "the drawer. For a while neither of them spoke. Then the telephone rang in the next room.",
    "The heart of a mammal has four chambers. Blood that has given up its oxygen enters on the right side and is "
    "pumped to the lungs; from there it returns to the left side, which sends it around the body.",
    "Dear Mr. Holland, thank you for your letter of the fifth. I am sorry to say that the room which you asked "
    "for is taken in the first week of August. We could offer you one on the garden side instead.",
    "The city grew up around a ford where two roads met. Its walls were built in the twelfth century, and parts "
    "of them can still be seen near the market. Today it is best known for its university and its glass.",
    "They lost the first match by a single goal and the second by four. After that the coach changed nearly "
    "everything: the hours of training, the captain, even the colour of the shirts. In May they won the cup.",
    "Prices rose again last month, mostly because of fuel and fresh vegetables. Economists had expected this, but"
    " not so soon. The bank said that it would wait for the figures of the next quarter before it acts.",
    "Plant the bulbs in autumn, about three times as deep as they are tall, with the tip upwards. They need no "
    "water until the leaves appear. Once they have flowered, let the leaves die back by themselves.",
    "A contract is an agreement that a court will enforce. One side makes an offer, the other accepts it, and "
    "each gives or promises something of value. It need not be written, although that makes it easier to prove.",
    "I woke up early, before the others, and went down to the lake. There was mist on the water and not a sound "
    "except a bird somewhere on the far side. I remember thinking that nothing would ever be so quiet again.",
    "Light travels through glass more slowly than through air, and so it bends where it enters. A curved piece of"
    " glass can bend all rays to one point. That is how a lens makes an image, in a camera as in the eye.",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A text's token ids, shape (1, tokens), and the base model's hidden states on it, (1, tokens, width): before layer
    `first`, where the adapter begins, and after the last."""

    ids: Any
    first: int
    before: Any
    hidden: Any


def remember(model: Any, tokenizer: Any, first: int = 0) -> list[Kept]:
    """What the model says of plain text now; its output layer stays as it is, so the hidden state tells all."""
    import torch

    decoder, kept = model.get_decoder(), []
    with torch.no_grad():
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], device=model.device)
            before = frozen.lower(decoder, first, {"input_ids": ids})
            kept.append(Kept(ids, first, before, decoder(ids, use_cache=False).last_hidden_state))
    return kept


def drift(model: Any, one: Kept) -> Any:
    """How far the model has moved from what it said of a text: the Kullback-Leibler divergence per token, in nats, a
    scalar tensor with gradient."""
    import torch
    from torch.nn.functional import kl_div, log_softmax

    head = model.get_output_embeddings()
    with torch.no_grad():
        before = log_softmax(head(one.hidden[0]).float(), dim=-1)
    hidden = frozen.upper(model.get_decoder(), one.first, {"input_ids": one.ids}, one.before)
    now = log_softmax(head(hidden[0]).float(), dim=-1)
    return kl_div(now, before, log_target=True, reduction="batchmean")
