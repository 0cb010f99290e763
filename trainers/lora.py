"""Examples -> adapter, and adapters on a model. The only file that imports peft.

LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021). An adapter's folder is one adapter, as
plain peft reads it: its shared weights. It may have experts beside them, weights of the same shape for one domain each,
in folders of their own that its card lists.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from store.errors import AnotherModel, Corrupt, TrainingFailed
from store.types import CARD
from trainers.files import write_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
EXPERTS = "experts"  # the folder of these in an adapter's folder, and their entry in its card
SHARED = ""  # the domain of the shared weights, which answer for all that have no expert, and for what has no domain
_PREFIX = "base_model.model."  # peft's own files have it before each weight's name
CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Settings:
    """How an adapter is trained. One step is at least `batch` examples, in whole pages."""

    rank: int = 8
    targets: tuple[str, ...] = ()  # names of linear layers; (): all of them, which learns more from as many examples
    first_layer: int = 0  # the layers below have no adapter, and run once per page
    lr: float = 3e-3
    keep: float = 4.0  # the weight of what the model said before of plain text, beside the loss per answer token
    warmup: float = 0.1  # share of the steps (more where these are few) over which the rate grows to `lr`
    batch: int = 4
    max_steps: int = 32
    minutes: float = 4.0
    seed: int = 0
    bf16: bool = False
    save_memory: bool = False  # recompute activations instead of keeping them (Chen et al. 2016): a third slower


@dataclass(frozen=True, slots=True)
class Attached:
    """An adapter on a model: its name there, and the sha256 of its weights."""

    name: str
    sha256: str


def prepare(model: Any, settings: Settings, start: Path | None = None, base: str = "") -> None:
    """Put a new adapter on `model`, active and ready to be trained: at first without effect, or with the weights of the
    adapter in `start`. `base` is the fingerprint of the model's weights. Raises what `verify` raises, Corrupt when
    `start` is of another base or another shape, and TrainingFailed when the model has no layer of a target's name."""
    import peft
    import torch

    activate(model, {})
    torch.manual_seed(settings.seed)  # the adapter's first weights come from torch's global generator
    _inject(model, _config(model, settings), CANDIDATE)
    if start:
        _check_base(start, base)
        missed = peft.set_peft_model_state_dict(model, _load(start), adapter_name=CANDIDATE)
        if missed.unexpected_keys or len(_load(start)) != len(trainable(model)):
            raise Corrupt(f"{start} has other layers than the settings ask for; set refresh.warm_start = false")
    _let_learn(model, CANDIDATE)
    if settings.save_memory:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()  # transformers recomputes in this mode alone; there is no dropout


def is_for(directory: Path, base: str) -> bool:
    """Whether the adapter in `directory` was trained on the model with this fingerprint. Raises what `read_card`
    raises."""
    return bool(read_card(directory)["base"]["sha256"] == base)


def has_shape(directory: Path, settings: Settings) -> bool:
    """Whether the adapter in `directory` can be gone on with under these settings. Raises what `read_card` raises."""
    was = read_card(directory)["settings"]
    wanted = (settings.rank, list(settings.targets), settings.first_layer)
    return (was["rank"], was["targets"], was["first_layer"]) == wanted


def fork(model: Any, settings: Settings, name: str) -> None:
    """Put a copy of the adapter that `prepare` made beside it, active and ready to be trained in its place."""
    import peft

    _inject(model, _config(model, settings), name)
    weights = peft.get_peft_model_state_dict(model, adapter_name=CANDIDATE)
    peft.set_peft_model_state_dict(model, weights, adapter_name=name)
    _let_learn(model, name)


def trainable(model: Any, name: str = CANDIDATE) -> dict[str, Any]:
    """The weights of the adapter that `prepare` or `fork` made, by name."""
    return {path: weight for path, weight in model.named_parameters() if f".{name}." in path}


def finish(model: Any, settings: Settings) -> None:
    """Undo what `prepare` did to the model but for the adapters."""
    if settings.save_memory:
        model.gradient_checkpointing_disable()
    model.eval()


def save(model: Any, directory: Path, settings: Settings, name: str = CANDIDATE) -> str:
    """Write the adapter that `prepare` or `fork` put on `model`, as plain peft reads it; returns its weights' sha256.

    It is garbage until `write_card` has given it a card.
    """
    import peft
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)  # it may be there from before a kill
    state = peft.get_peft_model_state_dict(model, adapter_name=name)
    state = {_PREFIX + path: weight.detach().cpu().contiguous() for path, weight in sorted(state.items())}
    save_file(state, str(directory / WEIGHTS), metadata={"format": "pt"})
    _config(model, settings).save_pretrained(str(directory))
    for file in (WEIGHTS, CONFIG):
        with (directory / file).open("rb") as written:
            os.fsync(written.fileno())
    return _sha256(directory / WEIGHTS)


def expert_folder(domain: str) -> str:
    """The name of a domain's folder among an adapter's experts: each has its own, whatever it is called."""
    plain = re.sub(r"[^a-z0-9]+", "-", domain.lower()).strip("-")[:32]
    return f"{plain}-{hashlib.sha256(domain.encode()).hexdigest()[:8]}".removeprefix("-")


def write_card(directory: Path, settings: Settings, card: Mapping[str, Any]) -> dict[str, Any]:
    """Make an adapter whole by its card, written last and atomically: `card` with the weights' sha256, the settings and
    the versions of the libraries. Returns it."""
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
    for folder, sha256 in _parts(directory, card).values():
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise Corrupt(f"{folder} has no {WEIGHTS}; other formats are refused; roll back to another adapter")
        if _sha256(weights) != sha256:
            raise Corrupt(f"{weights} is not what its card says (sha256 differs); roll back to another adapter")
    return card


def experts(directory: Path) -> list[str]:
    """The domains that an adapter has an expert for. Raises Corrupt when it has no readable card."""
    return list(read_card(directory).get(EXPERTS, {}))


def attach(model: Any, directory: Path, base: str) -> dict[str, Attached]:
    """Load an adapter onto `model` beside those it has, inactive: what is there now by domain, SHARED and its experts'.

    `base` is the fingerprint of the model's weights. Raises Corrupt when the card is missing, the weights are not
    safetensors or not those of the card, or the adapter was trained on another base.
    """
    import peft

    attached = {}
    for domain, (folder, sha256) in _parts(directory, _check_base(directory, base)).items():
        attached[domain] = Attached(f"adapter-{sha256[:16]}", sha256)
        _inject(model, peft.LoraConfig.from_pretrained(str(folder)), attached[domain].name)
        peft.set_peft_model_state_dict(model, _load(folder), adapter_name=attached[domain].name)
    model.eval()
    return attached


def activate(model: Any, shares: Mapping[str, float]) -> None:
    """Let attached adapters work, by name, each with its share of what it does to the model's outputs; {}: none.

    Several together are exactly the weighted sum of their changes to the weights, what peft's `add_weighted_adapter`
    makes a new adapter for ("cat"). Nothing is made here: each layer adds what the active ones give.
    """
    for layer in _layers(model):
        layer.enable_adapters(bool(shares))
        if shares:
            layer.set_adapter(list(shares))
            layer.requires_grad_(False)
        for name, share in shares.items():
            layer.set_scale(name, share)


def detach(model: Any, attached: Mapping[str, Attached]) -> None:
    """Take an adapter with its experts off the model and free its memory."""
    for layer in _layers(model):
        for one in attached.values():
            layer.delete_adapter(one.name)


def merge(model: Any, name: str) -> None:
    """Make an attached adapter part of the base's weights, and leave a plain model without any adapter."""
    layers = _layers(model)
    for path, layer in [(path, module) for path, module in model.named_modules() if module in layers]:
        layer.merge(adapter_names=[name])
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.peft_config


def _let_learn(model: Any, name: str) -> None:
    activate(model, {name: 1.0})
    for weight in model.parameters():
        weight.requires_grad_(False)
    for weight in trainable(model, name).values():
        weight.requires_grad_(True)


def _parts(directory: Path, card: Mapping[str, Any]) -> dict[str, tuple[Path, str]]:
    """The folders that hold an adapter's weights, with their sha256, by domain."""
    listed = card.get(EXPERTS, {}).items()
    return {
        SHARED: (directory, card["sha256"]),
        **{domain: (directory / EXPERTS / one["folder"], one["sha256"]) for domain, one in listed},
    }


def _check_base(directory: Path, base: str) -> dict[str, Any]:
    card = verify(directory)
    if card["base"]["sha256"] != base:
        raise AnotherModel(
            f"{directory} was trained on another base model ({card['base']['name']}); set generator.model to it"
        )
    return card


def _load(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {key.removeprefix(_PREFIX): weight for key, weight in load_file(str(directory / WEIGHTS)).items()}


def _config(model: Any, settings: Settings) -> Any:
    import peft

    layers = list(range(settings.first_layer, model.config.num_hidden_layers)) if settings.first_layer else None
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=0.0,
        target_modules=_targets(model, settings),
        layers_to_transform=layers,
        layers_pattern=None if layers is None else "layers",
        task_type="CAUSAL_LM",
        inference_mode=True,  # what the files say: whoever loads them serves, and trains only when it asks to
    )


def _targets(model: Any, settings: Settings) -> list[str]:
    """The names that the linear layers of the model's blocks have there. Raises TrainingFailed where one is unknown."""
    import torch

    paths = [path for path, one in model.get_decoder().layers.named_modules() if isinstance(one, torch.nn.Linear)]
    # Where another adapter is attached, peft has wrapped them.
    linear = {path.removesuffix(".base_layer").rpartition(".")[2] for path in paths if ".lora_" not in path}
    if unknown := sorted(set(settings.targets) - linear):
        known = ", ".join(sorted(linear))
        raise TrainingFailed(f"no layers are named {', '.join(unknown)}; set refresh.targets to some of {known}")

    return sorted(settings.targets or linear)


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
