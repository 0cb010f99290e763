"""Whether half the bits are faster here: measured, as bf16 is emulated on many CPUs, five to ten times slower."""

from __future__ import annotations

import time
from typing import Any

WORTH = 1.2  # times as fast, else the full precision stays
_TRIES = 5


def bf16_pays(model: Any) -> bool:
    """Whether a product of this model's size is done faster in bf16 than in fp32 on its device (some 50 ms)."""
    import torch

    width = model.config.hidden_size
    times = {}
    for kind in (torch.float32, torch.bfloat16):
        left = torch.ones(256, width, dtype=kind, device=model.device)
        right = torch.ones(width, 2 * width, dtype=kind, device=model.device)
        times[kind] = min(_seconds(left, right) for _ in range(_TRIES))
    return times[torch.float32] > WORTH * times[torch.bfloat16]


def _seconds(left: Any, right: Any) -> float:
    started = time.perf_counter()
    float((left @ right)[0, 0])  # waits for a device that works on its own
    return time.perf_counter() - started
