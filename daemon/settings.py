"""Every setting with its type, its default and its limits. Frozen; settings that contradict each other cannot be made.

`config.toml` explains each of them to the person who sets it; `daemon.config` reads them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from store.errors import ConfigError
from store.when import parse_span

DAILY = "0 3 * * *"
HOURLY = "0 * * * *"
LONGEST_CANARY = 24.0 * 365  # hours


def _schedule(expression: str) -> str:
    # The defaults are known to be good, so that most starts do not pay for the import of the scheduler.
    if expression in ("", DAILY, HOURLY):
        return expression
    from daemon.scheduler import check_cron

    try:
        check_cron(expression)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return expression


Schedule = Annotated[str, AfterValidator(_schedule)]  # five cron fields; empty: never
Whole = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("should be a path, not empty" if path == Path() else f"{path} is not absolute")
    return path


Folder = Annotated[Path, AfterValidator(_absolute)]  # `load` makes relative ones absolute


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Rule(Section):
    """What holds for the files of a source that `pattern` names, over what the source says."""

    pattern: Annotated[str, Field(min_length=1)]
    domain: str | None = None
    tags: tuple[str, ...] = ()
    boost: Amount | None = None


class Source(Section):
    """A watched folder."""

    path: Folder
    name: str = Field(default="", validate_default=True)
    domain: str = ""
    tags: tuple[str, ...] = ()
    boost: Amount = 1.0
    include: Annotated[tuple[str, ...], Field(min_length=1)] = ("**/*",)
    exclude: tuple[str, ...] = ()
    poll: bool = False
    rules: tuple[Rule, ...] = ()

    @field_validator("name")
    @classmethod
    def _default_to_folder(cls, name: str, info: ValidationInfo) -> str:
        if not name and "path" in info.data:
            name = info.data["path"].name
            if not name:
                raise ValueError("this folder has no name of its own; give the source one")
        if not name.isprintable() or "/" in name:
            raise ValueError("should be printable and without '/'")
        return name


class Ingest(Section):
    settle_seconds: Annotated[float, Field(ge=0)] = 3.0
    rescan_minutes: Amount = 10.0
    batch_documents: Whole = 64
    batch_seconds: Amount = 1.0
    max_file_mb: Amount = 50.0
    max_delete_share: PositiveShare = 0.5
    skip_secrets: bool = True
    parse_seconds: Amount = 60.0
    parse_memory_mb: Whole = 1024


class Chunking(Section):
    tokens: Whole = 200
    overlap: Annotated[Count, Field(validate_default=True)] = 30

    @field_validator("overlap")
    @classmethod
    def _shorter_than_a_chunk(cls, overlap: int, info: ValidationInfo) -> int:
        tokens = info.data.get("tokens")
        if tokens is not None and overlap >= tokens:
            raise ValueError(f"an overlap of {overlap} tokens is not shorter than a chunk ({tokens}, chunking.tokens)")
        return overlap


class Embedding(Section):
    model: Annotated[str, Field(min_length=1)] = "default"
    device: Annotated[str, Field(min_length=1)] = "auto"
    backend: Literal["torch", "openvino"] = "torch"
    batch_tokens: Whole = 512
    cache_mb: Count = 1024


Aggregate = Literal["concatenate", "one_by_one", "summarise"]


class Retrieval(Section):
    k: Whole = 5
    mode: Literal["hybrid", "vector", "text"] = "hybrid"
    text_weight: Share = 0.15
    reranker: str = ""
    rerank_seconds: Amount = 1.0
    context_tokens: Whole = 768
    order: Literal["best_first", "best_last"] = "best_first"
    aggregate: Aggregate = "concatenate"
    min_score: Annotated[float, Field(ge=-1, le=1)] = 0.25
    cache: Count = 256


def _url(endpoint: str) -> str:
    if endpoint and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", endpoint):
        raise ValueError(f"{endpoint!r} should be the address of an API, such as http://127.0.0.1:11434/v1")
    return endpoint


class Generator(Section):
    model: Annotated[str, Field(min_length=1)] = "default"
    device: Annotated[str, Field(min_length=1)] = "auto"
    max_new_tokens: Whole = 96
    endpoint: Annotated[str, AfterValidator(_url)] = ""
    endpoint_model: str = ""
    endpoint_key_file: str = ""
    cache_answers: Count = 0


def _quarantined(pattern: str) -> str:
    if not re.fullmatch(r"(source|tag|path):.+", pattern):
        raise ValueError(f"{pattern!r} should be source:NAME, tag:NAME or path:GLOB")
    return pattern


Control = Literal["aa", "padding", "no-distractors", "no-replay"]  # what a refresh may be run without


class Refresh(Section):
    learn: bool = True
    schedule: Schedule = DAILY
    min_retrievals: Whole = 50
    minutes: Amount = 20.0
    max_steps: Whole = 400
    rank: Whole = 8
    targets: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    replay: Share = 0.1
    distractors: Count = 3
    layers: Count = 18
    warm_start: bool = True
    min_gain: Amount = 0.15
    questions: str = ""
    canary_share: PositiveShare = 1.0
    canary_hours: Annotated[float, Field(gt=0, le=LONGEST_CANARY)] = 24.0
    quarantine: tuple[Annotated[str, AfterValidator(_quarantined)], ...] = ()


def _span(text: str) -> str:
    parse_span(text)
    return text


class Snapshots(Section):
    schedule: Schedule = HOURLY
    keep_last: Count = 10
    keep_hourly: Count = 24
    keep_daily: Count = 7
    keep_weekly: Count = 5
    keep_monthly: Count = 12
    keep_within: Annotated[str, AfterValidator(_span)] = ""


class Backup(Section):
    dir: str = ""
    schedule: Annotated[Schedule, Field(validate_default=True)] = ""

    @field_validator("schedule")
    @classmethod
    def _needs_a_folder(cls, schedule: str, info: ValidationInfo) -> str:
        if schedule and not info.data.get("dir"):
            raise ValueError("should come with backup.dir, the folder to copy the memory to")
        return schedule


class Api(Section):
    socket: str = ""
    listen: str = ""
    token_file: str = ""

    @field_validator("listen")
    @classmethod
    def _on_this_machine_only(cls, listen: str) -> str:
        _address(listen)
        return listen

    def address(self) -> tuple[str, int] | None:
        """The loopback address and the port to listen on over TCP; None: do not."""
        return _address(self.listen)


def _address(listen: str) -> tuple[str, int] | None:
    if not listen:
        return None
    written = re.fullmatch(r"(localhost|[\d.]+|\[[\da-fA-F:.]+\]):(\d{1,5})", listen, re.ASCII)
    try:
        host = "127.0.0.1" if written and written[1] == "localhost" else written[1].strip("[]") if written else ""
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ValueError(f"{listen!r} should be a loopback address and a port, such as 127.0.0.1:8377") from None
    if not loopback:
        raise ValueError(f"{listen!r} can be reached from other machines; set 127.0.0.1:PORT, and tunnel to it")
    if not written or not 1 <= int(written[2]) <= 65535:
        raise ValueError(f"{listen!r} should have a port from 1 to 65535")
    return host, int(written[2])


class Limits(Section):
    threads: Count = 0
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    memory_mb: Count = 0
    idle_minutes: Annotated[float, Field(ge=0)] = 0.0
    cpu_share: PositiveShare = 1.0


class Settings(Section):
    state_dir: Folder = Path("/var/lib/memex")
    sources: tuple[Source, ...] = ()
    ingest: Ingest = Ingest()
    chunking: Chunking = Chunking()
    embedding: Embedding = Embedding()
    retrieval: Retrieval = Retrieval()
    generator: Generator = Generator()
    refresh: Refresh = Refresh()
    snapshots: Snapshots = Snapshots()
    backup: Backup = Backup()
    api: Api = Api()
    limits: Limits = Limits()

    @field_validator("sources")
    @classmethod
    def _keep_apart(cls, sources: tuple[Source, ...], info: ValidationInfo) -> tuple[Source, ...]:
        conflicts = _conflicts(sources, info.data.get("state_dir"))
        if conflicts:
            raise PydanticCustomError("conflicts", "sources conflict", {"conflicts": conflicts})
        return sources

    @field_validator("backup")
    @classmethod
    def _keep_backup_apart(cls, backup: Backup, info: ValidationInfo) -> Backup:
        if backup.dir and {"state_dir", "sources"} <= info.data.keys():
            reason = misplaced(Path(backup.dir), info.data["state_dir"], info.data["sources"])
            if reason:
                raise ValueError(reason)
        return backup


def misplaced(folder: Path, state_dir: Path, sources: tuple[Source, ...]) -> str | None:
    """Why a backup must not lie in `folder`: it would be watched, or lost with what it is a copy of."""
    place = Path(os.path.realpath(folder))
    if place.is_relative_to(os.path.realpath(state_dir)):
        return f"{folder} lies in the state directory {state_dir}"
    inside = (one for one in sources if place.is_relative_to(os.path.realpath(one.path)))
    return next((f"{folder} lies in the source {one.name!r} ({one.path})" for one in inside), None)


def _conflicts(sources: tuple[Source, ...], state_dir: Path | None) -> list[tuple[int, str, str]]:
    """What cannot stand together: the source's index, the key and the reason. Links are followed."""
    found = []
    folders = [Path(os.path.realpath(source.path)) for source in sources]
    if state_dir is not None:
        state = Path(os.path.realpath(state_dir))
        for index, folder in enumerate(folders):
            if state.is_relative_to(folder):
                found.append((index, "path", f"{sources[index].path} contains the state directory {state_dir}"))
            elif folder.is_relative_to(state):
                found.append((index, "path", f"{sources[index].path} lies in the state directory {state_dir}"))
    for first, second in combinations(range(len(sources)), 2):
        one, two = sources[first], sources[second]
        if one.name == two.name:
            found.append((second, "name", f"two sources are named {one.name!r}; give one of them another name"))
        if folders[first] == folders[second]:
            found.append((second, "path", f"{two.path} is a source already ({one.name!r})"))
        elif folders[second].is_relative_to(folders[first]):
            found.append((second, "path", f"{two.path} lies in the source {one.name!r} ({one.path})"))
        elif folders[first].is_relative_to(folders[second]):
            found.append((second, "path", f"{two.path} contains the source {one.name!r} ({one.path})"))
    return found
