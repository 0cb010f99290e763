"""How good a ranking, an answer or a refusal is (pure).

A ranking is a list of keys, best first, each once. `relevant` gives the keys that belong there their grades, above 0.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def precision(ranking: Sequence[str], relevant: Mapping[str, float], k: int) -> float:
    """The share of the first `k` places that hold something relevant; a place that is not filled holds nothing."""
    return sum(key in relevant for key in ranking[:k]) / k


def recall(ranking: Sequence[str], relevant: Mapping[str, float], k: int) -> float:
    """The share of what is relevant that stands among the first `k`. Needs something relevant."""
    return sum(key in relevant for key in ranking[:k]) / len(relevant)


def reciprocal_rank(ranking: Sequence[str], relevant: Mapping[str, float], k: int) -> float:
    """1 / the rank of the first that is relevant, 0 when none is among the first `k`."""
    return next((1 / rank for rank, key in enumerate(ranking[:k], start=1) if key in relevant), 0.0)


def ndcg(ranking: Sequence[str], relevant: Mapping[str, float], k: int) -> float:
    """Discounted gain of the first `k` over that of the best order (Järvelin and Kekäläinen 2002).

    The gain is the grade itself, as in trec_eval. Needs something relevant.
    """
    best = sorted(relevant.values(), reverse=True)
    return _discounted([relevant.get(key, 0.0) for key in ranking[:k]]) / _discounted(best[:k])


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: as in SQuAD (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, answers: Sequence[str]) -> float:
    """1.0 if the text equals one of the answers after normalisation, else 0.0."""
    return float(normalise(text) in {normalise(answer) for answer in answers})


def token_f1(text: str, answers: Sequence[str]) -> float:
    """The best F1, 0 to 1, of shared words between the text and one of the answers."""
    return max((_f1(normalise(text).split(), normalise(answer).split()) for answer in answers), default=0.0)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in the text, word for word after normalisation."""
    words = f" {normalise(text)} "
    return any((wanted := normalise(answer)) and f" {wanted} " in words for answer in answers)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed. Needs a value."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def mean(values: Sequence[float]) -> float | None:
    """None where there is nothing to take it of: no figure is better than a wrong one."""
    return sum(values) / len(values) if values else None


@dataclass(frozen=True, slots=True)
class Threshold:
    """A score from which on a question is answered, and how often that goes wrong, as shares from 0 to 1."""

    value: float
    false_refusals: float  # of the answerable questions
    false_answers: float  # of the unanswerable ones


def judge_threshold(value: float, answerable: Sequence[float], unanswerable: Sequence[float]) -> Threshold:
    """How a threshold does on the best scores of questions that have an answer and of such that have none."""
    return Threshold(
        value=value,
        false_refusals=sum(score < value for score in answerable) / len(answerable),
        false_answers=sum(score >= value for score in unanswerable) / len(unanswerable),
    )


def calibrate(answerable: Sequence[float], unanswerable: Sequence[float]) -> Threshold | None:
    """The threshold with the lowest mean of both error rates; of equals the lowest, which refuses least.

    Candidates lie halfway between neighbouring scores: the value that stands there says nothing of new questions. None
    where one side is empty or all scores are one.
    """
    scores = sorted({*answerable, *unanswerable})
    if not answerable or not unanswerable or len(scores) < 2:
        return None
    middles = [(low + high) / 2 for low, high in pairwise(scores)]
    judged = [judge_threshold(middle, answerable, unanswerable) for middle in middles]
    return min(judged, key=lambda one: (one.false_refusals + one.false_answers, one.value))
