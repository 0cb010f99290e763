"""Learning: what a training step and an evaluation cost against the plain way, with the default model.

The plain way is peft's model and transformers' own loss and `generate`, on the same examples, layers and steps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.runtime import Runtime
from daemon.settings import Settings, Source
from store.types import Example
from tests.bench.corpus import docstrings
from trainers import evaluate, keeping, lora, prompt, training
from trainers.answers import Answers
from trainers.examples import Recipe, build, by_passages
from trainers.model import LanguageModel, resolve
from trainers.packing import Item, Page, page
from trainers.pages import Layout

MODELS = Path(__file__).parents[2] / ".cache" / "models"
NEW_TOKENS = 24
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # all, by name for peft


def run(quick: bool = False) -> dict[str, Any]:
    """`quick` with a quarter of the examples."""
    examples = made("sklearn", 40 if quick else 120)
    learned = [example for example in examples if example.split == "train"]
    asked = [example for example in examples if example.split in ("fresh", "abstain")]
    pages = 2 if quick else 8
    found = {}
    for name, first_layer, epochs in (("upper", 12, 3), ("all", 0, 1)):
        found |= compare_training(by_passages(learned)[:pages], name, first_layer, epochs)
    return found | compare_evaluation(by_passages(asked)[: 3 if quick else 6])


def made(library: str, documents: int) -> list[Example]:
    """Examples from a library's docstrings, as a cycle makes them, but on pages of one width: the plain loop has no
    memory for a batch of the widest."""
    with remembered([library], documents) as runtime:
        memory = runtime.memory
        chunks = memory.chunks(sorted(memory.live_at(memory.head())))
        recipe = Recipe(train=64, layout=Layout(spread=False))
        return build(chunks, lambda question, k: memory.search(question, k).hits, recipe=recipe)


@contextmanager
def remembered(libraries: Sequence[str], each: int) -> Iterator[Runtime]:
    """With a memory of docstrings of libraries, so many of each."""
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as folder:
        docs = Path(folder) / "docs"
        docs.mkdir()
        for name, text in (one for library in libraries for one in docstrings(library, each)):
            (docs / f"{name}.md").write_text(text)
        runtime = Runtime(Settings(state_dir=Path(folder) / "state", sources=(Source(path=docs),)), write=True)
        try:
            runtime.synchronise(list(runtime.settings.sources))
            yield runtime
        finally:
            runtime.close()


def compare_training(groups: Sequence[list[Example]], name: str, first_layer: int, epochs: int) -> dict[str, float]:
    """Seconds, after the first epoch and after all, ours over the plain loop's; also where each step holds the model to
    plain text, as those of a cycle do; and how the losses differ."""
    model = LanguageModel.load(resolve("default", MODELS), "cpu")
    pages = [page([_item(model, example) for example in group]) for group in groups]
    settings = lora.Settings(
        targets=TARGETS, first_layer=first_layer, batch=1, max_steps=epochs * len(pages), minutes=1e6
    )
    plain_text = keeping.remember(model.model, model.tokenizer, first_layer)
    ours, marks = _ours(model, pages, settings, ())
    _, cycle_marks = _ours(LanguageModel.load(resolve("default", MODELS), "cpu"), pages, settings, plain_text)
    plain_losses, plain_marks = _plain(pages, settings)
    assert len(plain_losses) == len(ours.losses)
    apart = max(abs(mine - theirs) / theirs for mine, theirs in zip(ours.losses, plain_losses, strict=True))
    ratios = {
        f"train_{name}{held}_epochs_{epoch}_over_plain": (some[step] - some[0]) / (plain_marks[step] - plain_marks[0])
        for held, some in (("", marks), ("_held_to_text", cycle_marks))
        for epoch in (1, epochs)
        for step in [epoch * len(pages)]
    }
    return ratios | {
        f"train_{name}_seconds_per_example": (marks[-1] - marks[0]) / ours.examples,
        f"train_{name}_losses_apart": apart,
    }


def _ours(
    model: LanguageModel, pages: Sequence[Page], settings: lora.Settings, kept: Sequence[keeping.Kept]
) -> tuple[training.Training, list[float]]:
    """What training did, and the clock at each step."""
    lora.prepare(model.model, settings)
    marks = [time.perf_counter()]
    done = training.train(
        model.model, pages, [], settings, lambda done, total: marks.append(time.perf_counter()), kept=kept
    )
    return done, marks


def _plain(pages: Sequence[Page], settings: lora.Settings) -> tuple[list[float], list[float]]:
    """peft's model on padded batches of the same examples in the same order: losses, and the clock at each step."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(settings.seed)
    base = AutoModelForCausalLM.from_pretrained(resolve("default", MODELS), dtype=torch.float32)
    layers = list(range(settings.first_layer, base.config.num_hidden_layers))
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=2 * settings.rank, target_modules=list(settings.targets), layers_to_transform=layers
    )
    torch.manual_seed(settings.seed)
    model = peft.get_peft_model(base, config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
    losses, marks = [], [time.perf_counter()]
    for step, batch in zip(range(settings.max_steps), training.batches(pages, settings), strict=False):
        rate = settings.lr * training.rate(step, settings.max_steps, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(**_padded([item for one in batch for item in one.items])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        marks.append(time.perf_counter())
    return losses, marks


def _padded(items: Sequence[Item]) -> dict[str, Any]:
    import torch

    width = max(len(item.prompt) + len(item.answer) for item in items)
    rows = [[*item.prompt, *item.answer] for item in items]
    short = [width - len(row) for row in rows]
    labels = [[-100] * len(item.prompt) + list(item.answer) for item in items]
    return {
        "input_ids": torch.tensor([row + [0] * pad for row, pad in zip(rows, short, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * pad for row, pad in zip(rows, short, strict=True)]),
        "labels": torch.tensor([row + [-100] * pad for row, pad in zip(labels, short, strict=True)]),
    }


def compare_evaluation(groups: Sequence[list[Example]]) -> dict[str, float]:
    """Seconds per item, ours over transformers' `generate` one by one; and the share of equal answers."""
    import torch

    model = LanguageModel.load(resolve("default", MODELS), "cpu")
    examples = [example for group in groups for example in group]
    with tempfile.TemporaryDirectory(prefix="memex-bench-") as folder:
        started = time.perf_counter()
        scores = evaluate.answer(model, "base", examples, Answers(Path(folder) / "answers.jsonl"), NEW_TOKENS)
        middle = time.perf_counter()
    ours, theirs = [score.text for score in scores], []
    with torch.inference_mode():
        for example in examples:
            ids = torch.tensor([model.encode(prompt.messages(example.question, example.passages))])
            said = model.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
            )
            theirs.append(model.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip())
    ended = time.perf_counter()
    return {
        "evaluate_over_one_by_one": (middle - started) / (ended - middle),
        "evaluate_seconds_per_item": (middle - started) / len(ours),
        "evaluate_same_answers": sum(map(str.__eq__, ours, theirs)) / len(ours),
    }


def _item(model: LanguageModel, example: Example) -> Item:
    asked = model.encode(prompt.messages(example.question, example.passages))
    return Item(tuple(asked), tuple(model.encode_answer(example.target)))
