"""Whether what a training step keeps of each layer fits into memory, or is better computed twice (Chen et al. 2016).

A decoder layer with LoRA on all its linear layers keeps 43 kB per token for the default model (hidden 576, intermediate
1536, fp32), and the process grows by up to 76 kB: the allocator loses the rest between what it frees.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainers.packing import Page

FLOATS = 9  # that the process grows by per token and layer, for each unit of hidden and intermediate width, as measured
BESIDE = 300 << 20  # bytes: gradients and state of the adapter, the answers' logits, the text that is kept
_CGROUP = Path("/sys/fs/cgroup")


def is_short(model: Any, pages: Iterable[Page], first_layer: int, cap_mb: int | None) -> bool:
    """Whether the activations of the longest page, in the layers from `first_layer` on, are more than what is free.

    `cap_mb` is the limit that the process runs under, if any. Where nobody says how much is free there is enough.
    """
    longest = max((page.tokens for page in pages), default=0)
    needed = activations(model.config, longest, first_layer) + BESIDE
    return any(left < needed for left in _left(model.device, cap_mb))


def activations(config: Any, tokens: int, first_layer: int) -> int:
    """Bytes that a step on one sequence takes for what the layers from `first_layer` on keep."""
    hidden: int = config.hidden_size
    inner: int = getattr(config, "intermediate_size", None) or 4 * hidden
    layers: int = config.num_hidden_layers
    return 4 * FLOATS * (hidden + inner) * (layers - first_layer) * tokens


def _left(device: Any, cap_mb: int | None) -> list[int]:
    """Bytes that may still be taken, by each of those who set a limit: the cap, the machine and the control group, or
    the accelerator."""
    import torch

    if device.type == "cuda":
        return [torch.cuda.mem_get_info(device)[0]]
    if device.type == "mps":
        return [torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()]
    if sys.platform != "linux":
        return []
    left = [_kilobytes(Path("/proc/meminfo"), "MemAvailable:") << 10, *_left_to_group()]
    if cap_mb is not None:
        left.append((cap_mb << 20) - (_kilobytes(Path("/proc/self/status"), "VmData:") << 10))
    return left


def _left_to_group() -> list[int]:
    """What systemd's MemoryHigh= and MemoryMax= leave to the process's control group (cgroup v2)."""
    named = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/")]
    found = []
    for line in named:
        group = _CGROUP / line.removeprefix("0::/")
        for limit in ("memory.high", "memory.max"):
            try:
                most, used = (group / limit).read_text().strip(), int((group / "memory.current").read_text())
            except OSError:
                continue  # another hierarchy, or none of ours to read
            if most != "max":
                found.append(int(most) - used)
    return found


def _kilobytes(file: Path, name: str) -> int:
    return int(next(line.split()[1] for line in file.read_text().splitlines() if line.startswith(name)))
