"""How answers hold up among distractors (as in RGB, Chen et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from daemon.citations import MARK
from daemon.evaluation.retrieval import Looked
from daemon.settings import Settings
from store.types import Hit, Passage
from trainers.generator import Generator
from trainers.metrics import exact_match, holds, mean, token_f1
from trainers.prompt import is_absent, messages

PLACES = 5  # passages in a prompt
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)  # of the places, given to distractors
MOST = 20  # questions; each costs six answers

Json = dict[str, Any]


def curve(
    model_for: Callable[[Sequence[Passage]], Generator],
    settings: Settings,
    looked: Sequence[Looked],
    on_progress: Callable[[str, int, int], None],
) -> Json:
    """Answers to questions whose right passage was found, from the model that is given for the passages shown.

    A share of five places is given to distractors that retrieval found too, the rest to the right passages that there
    are; where they begin is rotated. `without`: five distractors and nothing right, so that refusing is right.
    """
    split = ((one, *_split(one, looked)) for one in looked)
    usable = list(islice((one for one in split if one[1] and len(one[2]) == PLACES), MOST))
    points, total = [], len(usable) * (len(SHARES) + 1)
    for step, share in enumerate((*SHARES, 1.0)):
        wrong_ones = round(PLACES * share)
        exact, f1, refusals = [], [], []
        for number, (one, right, wrong) in enumerate(usable):
            on_progress("noise", step * len(usable) + number, total)
            passages = _rotated([*right[: PLACES - wrong_ones], *wrong[:wrong_ones]], number)
            asked = messages(one.question.text, passages)
            said = model_for(passages).generate(asked, settings.generator.max_new_tokens).text
            text, refused = MARK.sub("", said).strip(), is_absent(said)
            accepted = one.question.answers or ()
            exact.append(0.0 if refused else exact_match(text, accepted))
            f1.append(0.0 if refused else token_f1(text, accepted))
            refusals.append(float(refused))
        points.append({"share": share, "exact": mean(exact), "f1": mean(f1), "refusals": mean(refusals)})
    return {"questions": len(usable), "points": points[:-1], "without": {"refusals": points[-1]["refusals"]}}


def _rotated(hits: Sequence[Hit], number: int) -> list[Passage]:
    turn = number % len(hits)
    return [Passage(hit.chunk_id, hit.document_id, hit.text, domain=hit.domain) for hit in (*hits[turn:], *hits[:turn])]


def _split(looked: Looked, others: Sequence[Looked]) -> tuple[list[Hit], list[Hit]]:
    """The chunks found that are right and hold an accepted answer, and up to five of other documents that do not hold
    it: near misses first, then what other questions found."""
    accepted, judges = looked.question.answers or (), looked.question.judges_ranking
    right = [hit for hit in looked.hits if holds(hit.text, accepted) and (looked.is_right(hit) or not judges)]
    documents = {hit.document_id for hit in right}

    def wrong() -> Iterator[Hit]:
        seen = set()
        for hit in (*looked.hits, *(hit for other in others if other is not looked for hit in other.hits)):
            if hit.chunk_id in seen or hit.document_id in documents or looked.is_right(hit):
                continue
            seen.add(hit.chunk_id)
            if not holds(hit.text, accepted):
                yield hit

    return right, list(islice(wrong(), PLACES)) if right else []
