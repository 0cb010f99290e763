"""Whether what a training step keeps of each layer fits into memory, or is better computed twice (Chen et al. 2016).

A decoder layer with LoRA on all its linear layers keeps 43 kB per token for the default model (hidden 576, intermediate
1536, fp32), and the process grows by up to 76 kB: the allocator loses the rest between what it frees.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainers.packing import Page

FLOATS = 9  # that the process grows by per token and layer, for each unit of hidden and intermediate width, as measured
PER_WORD = 4096  # bytes for each word of the vocabulary: logits of the answers and of the plain text that is kept
BESIDE = 100 << 20  # bytes: the adapter's gradients and the optimizer's state, and a bit
_CGROUPS = Path("/sys/fs/cgroup")


def is_short(model: Any, pages: Sequence[Page], first_layer: int, cap_mb: int | None) -> bool:
    """Whether training on these pages, with adapters in the layers from `first_layer` on, takes more than what is free.

    `cap_mb` is the limit that the process runs under, if any. Where nobody says how much is free there is enough.
    """
    needed = footprint(model.config, [page.tokens for page in pages], first_layer)
    return any(left < needed for left in _left(model.device, cap_mb))


def footprint(config: Any, tokens: Sequence[int], first_layer: int) -> int:
    """Bytes that training takes beside the model's weights, on sequences of so many tokens."""
    hidden: int = config.hidden_size
    inner: int = getattr(config, "intermediate_size", None) or 4 * hidden
    vocabulary: int = config.vocab_size
    from_below = 4 * hidden * sum(tokens) if first_layer else 0  # what the frozen layers give is kept of every page
    return activations(hidden + inner, config.num_hidden_layers - first_layer, max(tokens, default=0)) + (
        from_below + PER_WORD * vocabulary + BESIDE
    )


def activations(width: int, layers: int, tokens: int) -> int:
    """Bytes that a step on one sequence takes for what its layers keep, of so much width together."""
    return 4 * FLOATS * width * layers * tokens


def _left(device: Any, cap_mb: int | None) -> list[int]:
    """Bytes that may still be taken, by each of those who set a limit: the cap, the machine and the control groups, or
    the accelerator."""
    import torch

    if device.type == "cuda":
        return [torch.cuda.mem_get_info(device)[0]]
    if device.type == "mps":
        return [torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()]
    if sys.platform != "linux":
        return []
    left = [*_stated(Path("/proc/meminfo"), "MemAvailable:"), *_left_to_groups(Path("/proc/self/cgroup"))]
    if cap_mb is not None:
        left += [(cap_mb << 20) - taken for taken in _stated(Path("/proc/self/status"), "VmData:")]
    return left


def _left_to_groups(names: Path) -> list[int]:
    """What systemd's MemoryHigh= and MemoryMax= leave to the process's control group and those above it (cgroup v2).
    Files that the kernel keeps at hand count as used there, and are given up first: they do not count here."""
    found = []
    for own in (line.removeprefix("0::/") for line in _lines(names) if line.startswith("0::/")):
        for group in (_CGROUPS / own, *(_CGROUPS / own).parents):
            limits = [line for name in ("memory.high", "memory.max") for line in _lines(group / name) if line != "max"]
            kept = sum(int(line.split()[1]) for line in _lines(group / "memory.stat") if "active_file " in line)
            for used in _lines(group / "memory.current"):
                found += [int(limit) - int(used) + kept for limit in limits]
    return found


def _stated(file: Path, name: str) -> list[int]:
    """The bytes that a line in kB gives, if there is one."""
    return [int(line.split()[1]) << 10 for line in _lines(file) if line.startswith(name)]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []  # another system, or none of ours to read
