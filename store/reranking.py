"""Reranking: a cross-encoder reads query and chunk together (Nogueira and Cho 2019, https://arxiv.org/abs/1901.04085)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from store.embedding import find_model
from store.errors import MissingModel
from store.warm import Warm

BATCH = 8  # chunks between two looks at the clock


class Reranker(Protocol):
    """A way to judge chunks by reading them together with the query. Safe from any thread."""

    def scores(self, query: str, texts: Sequence[str], seconds: float) -> list[float] | None:
        """How well each text fits the query, 0 to 1, higher is better; None when `seconds` were not enough.

        The time to load a model does not count.
        """

    def put_down(self, idle_seconds: float) -> bool:
        """Let the model go if it was not used in `idle_seconds`."""


class CrossEncoderReranker:
    """A sentence-transformers cross-encoder with one output, in fp32; a text too long for it is cut off."""

    def __init__(self, model: str, *, device: str = "auto") -> None:
        """`model`: a local folder, or a hub name whose files are on this machine. Raises MissingModel."""
        self._folder = _checked(find_model(model, "reranking model"))
        self._device = None if device == "auto" else device
        self._model: Warm[Any] = Warm(self._load)

    def scores(self, query: str, texts: Sequence[str], seconds: float) -> list[float] | None:
        from torch.nn import Sigmoid

        model = self._model.get()
        until, scores = time.monotonic() + seconds, []
        for start in range(0, len(texts), BATCH):
            if time.monotonic() >= until:
                return None
            pairs = [(query, text) for text in texts[start : start + BATCH]]
            judged = model.predict(pairs, batch_size=BATCH, activation_fn=Sigmoid(), show_progress_bar=False)
            scores += [float(score) for score in judged]
        return None if time.monotonic() >= until else scores

    def put_down(self, idle_seconds: float) -> bool:
        return self._model.put_down(idle_seconds)

    def _load(self) -> Any:
        import torch
        from sentence_transformers import CrossEncoder

        try:
            return CrossEncoder(
                str(self._folder),
                device=self._device,
                local_files_only=True,
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise MissingModel(f"the reranking model in {self._folder} cannot be loaded ({error})") from error


def _checked(folder: Path) -> Path:
    """The folder, if what it holds was trained to judge pairs with one number: any other would judge at random."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kinds, labels = config.get("architectures") or [], len(config.get("id2label") or "12")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise MissingModel(f"{folder}/config.json cannot be read ({error})") from error
    if not any(str(kind).endswith("ForSequenceClassification") for kind in kinds) or labels != 1:
        raise MissingModel(
            f"{folder} holds no reranking model: retrieval.reranker should be a cross-encoder with one label, "
            f"and this is {', '.join(map(str, kinds)) or 'unknown'} with {labels}"
        )
    return folder
