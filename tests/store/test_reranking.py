"""Reranking: what the cross-encoder prefers comes first, within its time; the model is tiny and random."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from store.errors import MissingModel
from store.memory import Memory
from store.reranking import CrossEncoderReranker
from store.search import RERANKED, Ranking
from store.warm import Warm
from tests.store.conftest import remember

TEXTS = ["bread bakes for forty minutes", "the boat needs ropes", "bees sleep in winter"]


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("cross-encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in TEXTS for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, num_labels=1, **sizes)
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=5.0)
    model.save_pretrained(folder)
    return folder


class Prefers:
    """Scores by a function of the text; `None` when it has no time."""

    def __init__(self, score: Callable[[str], float] | None) -> None:
        self.score = score
        self.given: list[Sequence[str]] = []

    def scores(self, query: str, texts: Sequence[str], seconds: float) -> list[float] | None:
        self.given.append(texts)
        return [self.score(text) for text in texts] if self.score else None

    def put_down(self, idle_seconds: float) -> bool:
        return False


@pytest.fixture
def shelf(memory: Memory) -> Memory:
    remember(memory, **{f"word{i}": f"apple number{i} word{i}" for i in range(60)})
    return memory


def test_it_chooses_among_more_than_are_asked_for(shelf: Memory) -> None:
    before = shelf.search("apple word7", 3)
    reranker = Prefers(lambda text: 1.0 if before.hits[0].text != text else 0.0)
    shelf._reranker = reranker
    found = shelf.search("apple word7", 3)
    assert len(reranker.given[0]) >= RERANKED
    assert before.hits[0].chunk_id not in {hit.chunk_id for hit in found.hits}
    assert [hit.score for hit in found.hits] == [1.0, 1.0, 1.0]
    assert all(hit.similarity < 1 for hit in found.hits), "what min_score compares stays the similarity"
    assert found.remarks == ()


def test_past_its_time_the_order_stands_and_is_said(shelf: Memory) -> None:
    before = shelf.search("apple word7", 3)
    shelf._reranker = Prefers(None)
    shelf.ranking = Ranking(rerank_seconds=0.25)
    found = shelf.search("apple word7", 3)
    assert found.hits == before.hits
    assert found.remarks == ("not reranked: 0.25 s were not enough (retrieval.rerank_seconds)",)


def test_a_real_cross_encoder_orders_and_keeps_to_its_time(cross_encoder: Path) -> None:
    from sentence_transformers import CrossEncoder

    reranker = CrossEncoderReranker(str(cross_encoder))
    scores = reranker.scores("bread bakes", TEXTS, 60)
    assert scores is not None
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) == 3
    plain = CrossEncoder(str(cross_encoder)).predict([("bread bakes", text) for text in TEXTS])
    assert sorted(range(3), key=lambda i: scores[i]) == sorted(range(3), key=lambda i: plain[i])
    assert reranker.scores("bread bakes", TEXTS * 50, 0.001) is None
    assert reranker.scores("bread bakes", [], 60) == []
    assert reranker.scores("bread", ["bread " * 500], 60), "what is too long for it is cut off"


def test_what_is_no_cross_encoder_is_refused(cross_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match="a cross-encoder with one label"):
        CrossEncoderReranker("default")
    shutil.copytree(cross_encoder, tmp_path / "two")
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    config["id2label"] = {"0": "no", "1": "yes"}
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingModel, match="with 2"):
        CrossEncoderReranker(str(tmp_path / "two"))
    (tmp_path / "two" / "config.json").write_text("{")
    with pytest.raises(MissingModel, match="cannot be read"):
        CrossEncoderReranker(str(tmp_path / "two"))


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(MissingModel, match="reranking model 'no/such-thing'"):
        CrossEncoderReranker("no/such-thing")


def test_a_model_is_put_down_when_idle_and_comes_back() -> None:
    loads: list[int] = []
    warm: Warm[object] = Warm(lambda: loads.append(1) or object())
    assert warm.put_down(0) is False
    first = warm.get()
    assert warm.get() is first
    assert warm.put_down(60) is False
    time.sleep(0.01)
    assert warm.put_down(0.005) is True
    assert warm.get() is not first
    assert len(loads) == 2
