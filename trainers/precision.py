"""Whether half the bits are faster here: measured, on an accelerator.

On a CPU training stays in fp32, so that a run repeated gives the same adapter. Many emulate bf16, five times slower;
on one that has it (avx512_bf16, two cores) large products took half the time, and a training step no less.
"""

from __future__ import annotations

import time
from typing import Any

WORTH = 1.5  # times as fast, else the full precision stays: far from both, so that each run decides the same
_SIZE = 1024
_TRIES = 5


def bf16_pays(device: Any) -> bool:
    """Whether a product of large matrices is done faster in bf16 than in fp32 on a device."""
    import torch

    if torch.device(device).type == "cpu":
        return False
    times = {}
    for kind in (torch.float32, torch.bfloat16):
        matrix = torch.ones(_SIZE, _SIZE, dtype=kind, device=device)
        times[kind] = min(_seconds(matrix) for _ in range(_TRIES))
    return times[torch.float32] > WORTH * times[torch.bfloat16]


def _seconds(matrix: Any) -> float:
    started = time.perf_counter()
    float((matrix @ matrix)[0, 0])  # waits for a device that works on its own
    return time.perf_counter() - started
