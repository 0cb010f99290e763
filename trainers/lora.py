"""Examples -> adapter, and adapters on a model. The only file that imports peft.

LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from store.errors import Corrupt, TrainingFailed
from trainers.files import write_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "card.json"
_PREFIX = "base_model.model."  # peft's own files have it before each weight's name
_CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Settings:
    """How an adapter is trained. One step is `accumulate` items, one item a batch."""

    rank: int = 8
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    lr: float = 1e-3
    warmup: float = 0.1  # share of the steps over which the rate grows to `lr`; then it falls linearly
    accumulate: int = 4
    max_steps: int = 32
    minutes: float = 4.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One training item as token ids; only the answer's tokens are learned."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Training:
    """What a training run did: mean loss per answer token of each step, tokens read, and wall-clock seconds."""

    losses: tuple[float, ...]
    tokens: int
    seconds: float


def train(
    model: Any,
    items: Sequence[Item],
    settings: Settings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Training:
    """Train a new adapter on `model` and leave it active, to be written by `save`.

    Same model, items, settings and thread count give the same adapter on a CPU, as long as the time budget does not
    cut the run short. Ends after `max_steps` or `minutes`, whichever is first: steps that
    would not fit are not begun. Raises TrainingFailed when there is nothing to train on or not one step fits.
    """
    import torch

    if not items:
        raise TrainingFailed("there are no training examples; ingest more documents or ask more questions")
    started = time.monotonic()
    torch.manual_seed(settings.seed)  # the adapter's first weights come from torch's global generator
    order = random.Random(settings.seed)
    activate(model, None)
    _inject(model, _config(settings), _CANDIDATE)
    activate(model, _CANDIDATE)
    weights = [weight for name, weight in model.named_parameters() if f".{_CANDIDATE}." in name]
    for weight in model.parameters():
        weight.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
    losses: list[float] = []
    tokens = 0
    queue: list[Item] = []
    planned = settings.max_steps if settings.minutes > 0 else 0
    while len(losses) < planned:
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _rate(len(losses), planned, settings.warmup)
        total = 0.0
        for _ in range(settings.accumulate):
            if not queue:
                queue = order.sample(list(items), len(items))
            item = queue.pop()
            loss = answer_loss(model, item)
            (loss / settings.accumulate).backward()
            total += float(loss.detach())
            tokens += len(item.prompt) + len(item.answer)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total / settings.accumulate)
        progress(len(losses), planned)
        # Where the time will not do for all steps, the rate falls to zero by the last one that fits.
        elapsed = time.monotonic() - started
        fitting = int((60 * settings.minutes - elapsed) / (elapsed / len(losses)))
        planned = min(settings.max_steps, len(losses) + max(0, fitting))
    if not losses:
        raise TrainingFailed(f"not one step fits into {settings.minutes:g} minutes; raise refresh.minutes")
    for weight in weights:
        weight.requires_grad_(False)
    return Training(tuple(losses), tokens, time.monotonic() - started)


def _rate(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at a step, counted from 0: a linear rise, then a linear fall."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def answer_loss(model: Any, item: Item) -> Any:
    """Mean cross-entropy over the answer's tokens, a scalar tensor.

    The output layer, a third of a small model's work, is computed only where an answer token is predicted.
    """
    import torch

    ids = torch.tensor([[*item.prompt, *item.answer]]).to(model.device)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
    logits = model.lm_head(hidden[len(item.prompt) - 1 : -1])
    return torch.nn.functional.cross_entropy(logits, ids[0, len(item.prompt) :])


def save(model: Any, directory: Path, settings: Settings, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write the adapter that `train` left on `model`, as plain peft reads it, and its card; returns the card.

    The card is written last and atomically: a directory without one is garbage. It is `card` with the weights'
    sha256, the settings and the versions of the libraries.
    """
    import peft
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    state = peft.get_peft_model_state_dict(model, adapter_name=_CANDIDATE)
    state = {_PREFIX + name: weight.detach().cpu().contiguous() for name, weight in sorted(state.items())}
    save_file(state, str(directory / WEIGHTS), metadata={"format": "pt"})
    _config(settings).save_pretrained(str(directory))
    for name in (WEIGHTS, CONFIG):
        with (directory / name).open("rb") as written:
            os.fsync(written.fileno())
    whole = {
        **card,
        "settings": asdict(settings),
        "sha256": _sha256(directory / WEIGHTS),
        "versions": {library: version(library) for library in ("torch", "transformers", "peft", "safetensors")},
    }
    write_json(directory / CARD, whole)
    return whole


def read_card(directory: Path) -> dict[str, Any]:
    """The card of an adapter. Raises Corrupt when there is none, or it cannot be read."""
    try:
        card: dict[str, Any] = json.loads((directory / CARD).read_text())
    except (OSError, ValueError) as error:
        raise Corrupt(f"{directory} is not a whole adapter: no readable {CARD}; roll back to another") from error
    return card


def verify(directory: Path) -> dict[str, Any]:
    """The card of an adapter whose weights are there and are those of the card. Raises Corrupt."""
    card = read_card(directory)
    weights = directory / WEIGHTS
    if not weights.is_file():
        raise Corrupt(f"{directory} has no {WEIGHTS}; other formats are refused; roll back to another adapter")
    if _sha256(weights) != card["sha256"]:
        raise Corrupt(f"{weights} is not what its card says (sha256 differs); roll back to another adapter")
    return card


def attach(model: Any, directory: Path, base: str) -> str:
    """Load an adapter onto `model` beside those it has, inactive, and return its name there.

    `base` is the fingerprint of the model's weights. Raises Corrupt when the card is missing, the weights are not
    safetensors or not those of the card, or the adapter was trained on another base.
    """
    import peft
    from safetensors.torch import load_file

    card, weights = verify(directory), directory / WEIGHTS
    if card["base"]["sha256"] != base:
        raise Corrupt(
            f"{directory} was trained on another base model ({card['base']['name']}); set generator.model to it"
        )
    name = f"adapter-{card['sha256'][:16]}"
    config = peft.LoraConfig.from_pretrained(str(directory))
    _inject(model, config, name)
    state = {key.removeprefix(_PREFIX): weight for key, weight in load_file(str(weights)).items()}
    peft.set_peft_model_state_dict(model, state, adapter_name=name)
    model.eval()
    return name


def activate(model: Any, name: str | None) -> None:
    """Let one attached adapter work, or none of them."""
    for layer in _layers(model):
        if name is None:
            layer.enable_adapters(False)
        else:
            layer.enable_adapters(True)
            layer.set_adapter(name)
            layer.requires_grad_(False)


def detach(model: Any, name: str) -> None:
    """Take an adapter off the model and free its memory."""
    for layer in _layers(model):
        layer.delete_adapter(name)


def merge(model: Any, name: str) -> None:
    """Make an attached adapter part of the base's weights, and leave a plain model without any adapter."""
    layers = _layers(model)
    for path, layer in [(path, module) for path, module in model.named_modules() if module in layers]:
        layer.merge(adapter_names=[name])
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.peft_config


def _config(settings: Settings) -> Any:
    import peft

    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=0.0,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
        inference_mode=True,  # what the files say: whoever loads them serves, and trains only when it asks to
    )


def _inject(model: Any, config: Any, name: str) -> None:
    import peft

    with warnings.catch_warnings():
        # peft warns of every adapter after the first; several on one base are what is meant here.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        peft.inject_adapter_in_model(config, model, adapter_name=name)


def _layers(model: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
