"""An adapter for other programs: as plain peft reads it, or merged into the weights of its base."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from daemon.runtime import models_dir
from daemon.settings import Settings
from store import query_adapter
from store.errors import NotFound, UsageError
from store.types import CARD
from trainers import lora
from trainers.model import LanguageModel, resolve


def export_adapter(settings: Settings, adapter: int, folder: Path, *, merged: bool) -> dict[str, Any]:
    """Write the adapter with its experts to a new folder; `merged`: its shared weights in a whole model, which
    transformers loads without peft.

    Only reads the state directory. Raises NotFound (no such adapter), UsageError (the folder is there already), Corrupt
    (its weights are not those of its card, or were trained on another base) and MissingModel.
    """
    kept = settings.state_dir / "adapters" / f"{adapter:04d}"
    if not kept.is_dir():
        raise NotFound(
            f"no adapter {adapter} in {kept.parent}: `memex refresh list` shows all that there were, of which some are "
            "forgotten, and of old refreshes those that served are left"
        )
    if (kept / query_adapter.WEIGHTS).is_file():
        raise UsageError(
            f"adapter {adapter} moves the vectors of questions; only those of the language model are exported"
        )
    if folder.exists():
        raise UsageError(f"{folder} is there already; name a new folder")
    card = lora.verify(kept)
    part = folder.with_name(f".{folder.name}.part")
    try:
        part.mkdir(parents=True)
        if merged:
            LanguageModel.load(resolve(settings.generator.model, models_dir(settings))).save_merged(kept, part)
        else:
            for name in (lora.WEIGHTS, lora.CONFIG, CARD):
                shutil.copyfile(kept / name, part / name)
            if card.get(lora.EXPERTS):
                shutil.copytree(kept / lora.EXPERTS, part / lora.EXPERTS)
        os.rename(part, folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {
        "adapter": adapter,
        "dir": str(folder),
        "merged": merged,
        "base": card["base"]["name"],
        "sha256": card["sha256"],
        "bytes": sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()),
    }
