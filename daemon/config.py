"""config.toml and the environment -> frozen settings. What is wrong is said all at once, with file, key and line."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from daemon.settings import Settings, Source
from store.errors import ConfigError

__all__ = ["Settings", "Source", "check", "find_file", "load", "locate_line", "show", "socket_path", "token_path"]

KeyPath = tuple[str | int, ...]

PREFIX = "MEMEX_"
FILE_VARIABLE = "MEMEX_CONFIG"
SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un, less the closing NUL


def find_file(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file that `load` reads; None: there is none, and the defaults hold. A folder that may not be
    entered, such as another user's, has none."""
    if path is not None:
        return path
    if named := environ.get(FILE_VARIABLE):
        return Path(named).expanduser()
    for place in (Path("config.toml"), Path("/etc/memex/config.toml")):
        with suppress(PermissionError):
            if place.is_file():
                return place
    return None


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings in force: defaults, then the file, then the environment. Raises ConfigError naming every fault.

    The disk is asked only for the file: whether the source folders exist is for `check`, because an unmounted disk
    must not stop the daemon.
    """
    given = _read(find_file(path, environ))
    values, faults = _from_environment(environ)
    merged = _merge(given.values, values)
    try:
        settings = Settings.model_validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        raise ConfigError("\n".join([*_explain(error, given, environ), *faults])) from None
    if faults:
        raise ConfigError("\n".join(faults))
    return settings


def check(settings: Settings, path: Path | None = None) -> list[str]:
    """What on this machine's disk does not fit the settings; with the file's path, each with its line."""
    text = path.read_text(encoding="utf-8-sig") if path else ""
    problems: list[tuple[KeyPath, str]] = []
    if not settings.sources:
        problems.append((("sources",), "no sources: nothing to watch"))
    for index, source in enumerate(settings.sources):
        key = ("sources", index, "path")
        if not source.path.exists():
            problems.append((key, f"no such folder: {source.path}"))
        elif not source.path.is_dir():
            problems.append((key, f"not a folder: {source.path}"))
        elif not os.access(source.path, os.R_OK | os.X_OK):
            problems.append((key, f"cannot be read by this user: {source.path}"))
    if settings.state_dir.exists() and not settings.state_dir.is_dir():
        problems.append((("state_dir",), f"not a folder: {settings.state_dir}"))
    key_file = settings.generator.endpoint_key_file
    if key_file and not os.access(key_file, os.R_OK):
        problems.append((("generator", "endpoint_key_file"), f"cannot be read by this user: {key_file}"))
    questions = settings.refresh.questions
    if questions and not os.access(questions, os.R_OK):
        problems.append((("refresh", "questions"), f"cannot be read by this user: {questions}"))
    if len(os.fsencode(socket_path(settings))) > SOCKET_PATH_LIMIT:
        problems.append((("api", "socket"), f"longer than {SOCKET_PATH_LIMIT} bytes: {socket_path(settings)}"))
    return [_place(path, text, key) + _dotted(key) + ": " + reason for key, reason in problems]


def show(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What is in force, JSON-able, and under `origins` where each value came from: default, file or environment."""
    origins = {}
    for key, _ in _settings(Settings):
        owner: BaseModel = settings
        for name in key[:-1]:
            owner = getattr(owner, str(name))
        if environ.get(_variable(key)):
            origins[_dotted(key)] = "environment"
        else:
            origins[_dotted(key)] = "file" if key[-1] in owner.model_fields_set else "default"
    return {"settings": settings.model_dump(mode="json"), "origins": origins}


def socket_path(settings: Settings) -> Path:
    """Where the daemon listens: as set, else in the state directory, where a command line with the same file looks."""
    return Path(settings.api.socket) if settings.api.socket else settings.state_dir / "run" / "memex.sock"


def token_path(settings: Settings) -> Path:
    """Where the token for TCP lies: as set, else in the state directory."""
    return Path(settings.api.token_file) if settings.api.token_file else settings.state_dir / "token"


def locate_line(text: str, key: KeyPath) -> int | None:
    """The line, counted from 1, on which `key` is set in TOML `text`; else that of the nearest table around it."""
    lines = _key_lines(text)
    return next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), None)


def _key_lines(text: str) -> dict[KeyPath, int]:
    # A statement of TOML ends with the first line at which it parses by itself; the parser knows strings and brackets.
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}  # blocks seen of each array of tables
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = ()
            while parsed:
                name, inner = next(iter(parsed.items()))
                table += (name,)
                if isinstance(inner, list):
                    counts[table] = counts.get(table, 0) + 1
                    inner = inner[0]
                if table in counts:
                    table += (counts[table] - 1,)
                parsed = inner
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], start)
        else:
            for key in _paths(parsed):
                lines.setdefault(table + key, start)
        statement, start = "", number + 1
    return lines


def _paths(value: Any) -> Iterator[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (name,)
        yield from ((name, *rest) for rest in _paths(inner))


@dataclass(frozen=True, slots=True)
class _File:
    path: Path | None
    text: str
    values: dict[str, Any]


def _read(path: Path | None) -> _File:
    if path is None:
        return _File(None, "", {})
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        at = re.search(r" \(at line (\d+), .*\)$", str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        reason = str(error)[: at.start()] if at else re.sub(r" \(at end of document\)$", "", str(error))
        raise ConfigError(f"{path}:{line}: not TOML: {reason}") from None
    return _File(path, text, _anchor(values, path.absolute().parent))


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The values that variables set, and what is wrong with variables: not UTF-8, or almost a setting.

    A variable that resembles no setting is left alone: container platforms make MEMEX_PORT and the like by themselves.
    """
    values: dict[str, Any] = {}
    known = {_variable(key): (key, annotation) for key, annotation in _settings(Settings)}
    faults = []
    for variable in sorted(name for name in environ if name.startswith(PREFIX) and environ[name]):
        if not _encodes(environ[variable]):
            faults.append(f"{variable}: not UTF-8")
        elif variable in known:
            (*sections, name), annotation = known[variable]
            owner = values
            for section in sections:
                owner = owner.setdefault(section, {})
            owner[name] = _decode(environ[variable], annotation)
        elif variable != FILE_VARIABLE:
            similar = difflib.get_close_matches(variable, known, n=1, cutoff=0.85)
            if similar or variable.removeprefix(PREFIX).split("__")[0].lower() in Settings.model_fields:
                faults.append(f"{variable}: unknown setting" + _did_you_mean(similar))
    return _anchor(values, Path.cwd()), faults


def _encodes(text: str) -> bool:
    return text == text.encode("utf-8", "ignore").decode()


def _decode(text: str, annotation: Any) -> Any:
    # What does not decode stays text, and validation says what it should have been.
    try:
        if annotation in (bool, int, float):
            return TypeAdapter(annotation).validate_python(text)
        return text if annotation in (str, Path) else json.loads(text)
    except ValueError:
        return text


def _anchor(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`values` with every path made absolute, seen from `folder`. A model is a path if it is written like one."""

    def absolute(owner: Any, name: str, pattern: str = ".") -> None:
        if isinstance(owner, dict) and isinstance(text := owner.get(name), str) and re.match(pattern, text):
            owner[name] = os.path.normpath(folder / os.path.expanduser(text))

    absolute(values, "state_dir")
    sources = values.get("sources")
    for source in sources if isinstance(sources, list) else ():
        absolute(source, "path")
    absolute(values.get("api"), "socket")
    absolute(values.get("backup"), "dir")
    absolute(values.get("api"), "token_file")
    absolute(values.get("generator"), "endpoint_key_file")
    absolute(values.get("refresh"), "questions")
    for section, name in (("embedding", "model"), ("generator", "model"), ("retrieval", "reranker")):
        absolute(values.get(section), name, r"[~/]|\.\.?/")
    return values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _explain(error: ValidationError, file: _File, environ: Mapping[str, str]) -> list[str]:
    faults: list[tuple[KeyPath, str]] = []
    for fault in error.errors(include_url=False):
        key = fault["loc"]
        if fault["type"] == "conflicts":
            faults += [((*key, index, name), reason) for index, name, reason in fault["ctx"]["conflicts"]]
        else:
            faults.append((key, _reason(fault)))
    variables = {_variable(key) for key, _ in _settings(Settings)} & {name for name, value in environ.items() if value}
    located = []
    for key, reason in faults:
        split = next((end for end in range(len(key), 0, -1) if _variable(key[:end]) in variables), 0)
        place = _variable(key[:split]) + _dotted(key[split:]) if split else _place(file.path, file.text, key)
        located.append(f"{place}: {reason}" if split else f"{place}{_dotted(key)}: {reason}")
    return located


def _reason(fault: Mapping[str, Any]) -> str:
    *around, name = fault["loc"]
    if fault["type"] == "extra_forbidden":
        return "unknown key" + _did_you_mean(difflib.get_close_matches(str(name), _names(around), n=1))
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    value = json.dumps(fault["input"], ensure_ascii=False)
    message = str(fault["msg"]).replace("Input ", "").replace("an object", "a table")
    return f"{message}, not {value if len(value) <= 60 else value[:60] + '...'}"


def _did_you_mean(similar: list[str]) -> str:
    return f"; did you mean {similar[0]}?" if similar else ""


def _names(around: list[str | int]) -> list[str]:
    """The keys that are known in a table."""
    if not around:
        return list(Settings.model_fields)
    section = Source if around[0] == "sources" else Settings.model_fields[str(around[0])].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []


def _settings(model: type[BaseModel], around: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every setting's key with its type; the list of sources is one setting."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, (*around, name))
        else:
            yield (*around, name), field.annotation


def _variable(key: KeyPath) -> str:
    return PREFIX + "__".join(str(name).upper() for name in key)


def _dotted(key: KeyPath) -> str:
    """sources[0].path"""
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in key).removeprefix(".")


def _place(path: Path | None, text: str, key: KeyPath) -> str:
    if path is None:
        return ""
    line = locate_line(text, key)
    return f"{path}:{line}: " if line else f"{path}: "
