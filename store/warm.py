"""Models that are loaded when first needed, kept warm, and put down after an idle time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Model = TypeVar("Model")


class Warm(Generic[Model]):
    """Safe from any thread. Whoever got the model may use it on while it is put down."""

    def __init__(self, load: Callable[[], Model]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._used_at = 0.0

    def get(self) -> Model:
        """The model; loaded first if it is not there, while others who ask wait."""
        with self._lock:
            if self._model is None:
                self._model = self._load()
            self._used_at = time.monotonic()
            return self._model

    def put_down(self, idle_seconds: float) -> bool:
        """Let the model go if nobody asked for it in `idle_seconds`; whether it went."""
        with self._lock:
            idle = self._model is not None and time.monotonic() - self._used_at >= idle_seconds
            if idle:
                self._model = None
            return idle
