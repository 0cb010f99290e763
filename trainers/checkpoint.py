"""Where a training run is, in one file: a kill costs what came after the latest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store.errors import Corrupt

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True)
class State:
    """What a training run has done so far. `best` has the weights of `best_step`, by name; {}: the latest are."""

    losses: list[float] = field(default_factory=list)
    checks: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    best_step: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    done: bool = False

    @property
    def step(self) -> int:
        return len(self.losses)


def write(path: Path, state: State, weights: Mapping[str, Any], optimizer: Any) -> None:
    """Put the state, the weights and what the optimizer (AdamW) remembers of them into `path`, whole or not at all."""
    from safetensors.torch import save_file

    tensors = {f"weight/{name}": weight.detach() for name, weight in weights.items()}
    tensors |= {f"best/{name}": weight for name, weight in state.best.items()}
    for name, weight in weights.items():
        tensors |= {f"{moment}/{name}": optimizer.state[weight][moment] for moment in _MOMENTS}
    told = {
        name: getattr(state, name)
        for name in ("losses", "checks", "best_step", "examples", "tokens", "seconds", "done")
    }
    part = path.with_suffix(".part")
    save_file({name: one.cpu().contiguous() for name, one in tensors.items()}, str(part), {"state": json.dumps(told)})
    os.replace(part, path)


def read(path: Path | None, weights: Mapping[str, Any], optimizer: Any) -> State:
    """What `write` wrote, put into `weights` and `optimizer` too; a run that begins where there is no such file.

    Raises Corrupt when the file is of other weights.
    """
    import torch
    from safetensors import safe_open

    if path is None or not path.is_file():
        return State()
    with safe_open(str(path), "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
        told = json.loads(opened.metadata()["state"])
    if {name for name in tensors if name.startswith("weight/")} != {f"weight/{name}" for name in weights}:
        raise Corrupt(f"{path} is of a run with other settings; delete it and run `memex refresh` again")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[f"weight/{name}"])
            moments = {moment: tensors[f"{moment}/{name}"].to(weight.device) for moment in _MOMENTS}
            optimizer.state[weight] = {"step": torch.tensor(float(len(told["losses"]))), **moments}
    best = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith("best/")}
    return State(**{**told, "checks": [tuple(one) for one in told["checks"]]}, best=best)
