from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from store.types import Example, Hit, Passage
from trainers import prompt
from trainers.model import LanguageModel
from trainers.packing import Item, Page, page

WORDS = (
    "the a of to in is port server keeps listens default answer question passage documents not copied from few words "
    "as possible holds no say above instruction file path kernel memory red blue green one two three four alpha beta"
)
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a byte-level tokenizer, as a directory that `LanguageModel.load` reads."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        [WORDS] * 20,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|turn|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>", bos_token="<|turn|>"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(7)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    path = tmp_path_factory.mktemp("tiny-model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def make_example(number: int, split: str = "train", gold: bool = True) -> Example:
    """An example with a document of its own, whose answer is one of three words."""
    answer = ("red", "blue", "green")[number % 3]
    passage = Passage(f"c{number}", f"d{number}", f"server {number} is {answer}" if gold else "nothing here")
    other = Passage(f"c{number}x", f"d{number}", "the kernel keeps memory")
    return Example(
        example_id=f"e{split}{number}",
        kind="cloze",
        question=f"what is server {number}",
        passages=(other, passage),
        target=answer if gold else "Not in the documents.",
        answers=(answer,) if gold else ("Not in the documents.",),
        gold=1 if gold else None,
        document_id=f"d{number}",
        split=split,
    )


def make_pages(model: LanguageModel, count: int = 6, per_page: int = 2) -> list[Page]:
    """Pages of so many items; those of one page have the passages of its first."""
    made = []
    for first in range(0, count, per_page):
        passages = make_example(first).passages
        asked = [make_example(number) for number in range(first, first + per_page)]
        made.append(
            page(
                [
                    Item(
                        tuple(model.encode(prompt.messages(one.question, passages))),
                        tuple(model.encode_answer(one.target)),
                    )
                    for one in asked
                ]
            )
        )
    return made


def make_hit(document: str, number: int, text: str, headings: tuple[str, ...] = ()) -> Hit:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Hit(
        chunk_id=f"{document}:{number}",
        document_id=document,
        source="docs",
        path=f"/docs/{document}",
        revision="r",
        position=number,
        headings=headings,
        page=None,
        text=text,
        score=0.5,
        domain="",
        tags=(),
        modified_at=at,
        ingested_at=at,
        embedded_at=at,
    )


def word_search(hits: list[Hit]) -> Callable[[str, int], list[Hit]]:
    """Search by shared words: real enough to find a chunk by its own sentence."""

    def search(question: str, k: int) -> list[Hit]:
        asked = set(question.lower().split())
        return sorted(hits, key=lambda hit: (-len(asked & set(hit.text.lower().split())), hit.chunk_id))[:k]

    return search


@pytest.fixture
def corpus() -> list[Hit]:
    """Thirty documents of two chunks, each with a number, a definition and a heading of its own."""
    hits = []
    for number in range(30):
        name = f"tool{chr(97 + number % 26)}{number}"
        hits.append(
            make_hit(
                f"doc{number}",
                0,
                f"The {name} is a small program that copies files of kind {name} between two hosts. "
                f"By default the {name} server listens on port {4000 + number} of the local machine. "
                f"It was first written for the {name} project and is now kept by others.",
                (f"About {name}",),
            )
        )
        hits.append(
            make_hit(
                f"doc{number}",
                1,
                f"After a failure {name} waits for {number + 31} seconds before it tries to connect again. "
                f"Every attempt of {name} is written to the log in the state directory.",
                (f"Failures of {name}",),
            )
        )
    return hits
