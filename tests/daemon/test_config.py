"""Settings: what is read from where, and what is said when it is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from daemon.config import Settings, check, find_file, load, locate_line, show, socket_path
from daemon.settings import Source
from store.embedding import open_embedder
from store.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "config.toml"


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def faults(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return str(caught.value).split("\n")


# The shipped file


def keys(model: type[BaseModel]) -> set[tuple[str, ...]]:
    found = set()
    for name, field in model.model_fields.items():
        nested = field.annotation
        inner = keys(nested) if isinstance(nested, type) and issubclass(nested, BaseModel) else {()}
        found |= {(name, *rest) for rest in inner}
    return found


def paths(table: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield from ((name, *rest) for rest in paths(value)) if isinstance(value, dict) else [(name,)]


def test_shipped_file_holds_the_defaults() -> None:
    assert load(SHIPPED, {}) == Settings()


def test_shipped_file_names_and_explains_every_setting() -> None:
    assert set(paths(tomllib.loads(SHIPPED.read_text()))) == keys(Settings) - {("sources",)}
    settings = [line for line in SHIPPED.read_text().splitlines() if re.match(r"(# )?[a-z_]+ =", line)]
    assert all(re.search(r" # \S", line[2:]) for line in settings)


def test_example_of_a_source_is_valid_and_names_every_key(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\[\[|[a-z]+ = )", "", SHIPPED.read_text(), flags=re.M)
    (values,) = tomllib.loads(text)["sources"]
    assert set(values) == set(Source.model_fields)
    assert load(written(tmp_path, text), {}).sources == (Source(path=Path("/srv/docs")),)


def test_an_embedder_without_settings_has_their_defaults() -> None:
    said = Settings().embedding.model_dump() | Settings().limits.model_dump()
    taken = {name: one.default for name, one in signature(open_embedder).parameters.items() if name != "models"}
    assert {name: said[name] for name in taken} == taken


# Where values come from


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if find_file(None, {}) is None:  # a machine may have /etc/memex/config.toml
        assert load(None, {}) == Settings()


def test_file_is_the_one_given_else_named_else_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, named, here = tmp_path / "given.toml", tmp_path / "named.toml", tmp_path / "config.toml"
    for k, path in enumerate((given, named, here), 1):
        path.write_text(f"[retrieval]\nk = {k}\n")
    monkeypatch.chdir(tmp_path)
    environ = {"MEMEX_CONFIG": str(named)}
    assert load(given, environ).retrieval.k == 1
    assert load(None, environ).retrieval.k == 2
    assert load(None, {}).retrieval.k == 3


def test_environment_overrides_each_kind_of_setting(tmp_path: Path) -> None:
    path = written(tmp_path, '[refresh]\nminutes = 5\nrank = 4\n[[sources]]\npath = "a"\n')
    environ = {
        "MEMEX_REFRESH__MINUTES": "7.5",
        "MEMEX_REFRESH__LEARN": "no",
        "MEMEX_RETRIEVAL__K": "9",
        "MEMEX_GENERATOR__MODEL": "org/name",
        "MEMEX_STATE_DIR": str(tmp_path / "state"),
        "MEMEX_SOURCES": json.dumps([{"path": str(tmp_path / "b"), "tags": ["x"]}]),
        "MEMEX_INGEST__BATCH_DOCUMENTS": "",  # empty is not set
    }
    settings = load(path, environ)
    assert settings.refresh.minutes == 7.5
    assert settings.refresh.learn is False
    assert settings.refresh.rank == 4
    assert settings.retrieval.k == 9
    assert settings.generator.model == "org/name"
    assert settings.state_dir == tmp_path / "state"
    assert settings.sources == (Source(path=tmp_path / "b", name="b", tags=("x",)),)
    assert settings.ingest.batch_documents == 64


def test_relative_paths_start_at_the_file_and_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.chdir(tmp_path)
    text = 'state_dir = "state"\nsources = [{path = "../notes/"}, {path = "~/papers"}]\n[api]\nsocket = "s"\n'
    text += '[embedding]\nmodel = "./minilm"\n[generator]\nmodel = "org/model"\n[backup]\ndir = "../b"\n'
    text += '[refresh]\nquestions = "~/asked.jsonl"\n'
    folder = tmp_path / "etc"
    folder.mkdir()
    settings = load(written(folder, text), {})
    assert settings.state_dir == folder / "state"
    assert [source.path for source in settings.sources] == [tmp_path / "notes", Path("/home/ada/papers")]
    assert [source.name for source in settings.sources] == ["notes", "papers"]
    assert settings.api.socket == str(folder / "s")
    assert settings.backup.dir == str(tmp_path / "b")
    assert settings.refresh.questions == "/home/ada/asked.jsonl"
    assert any(
        "refresh.questions: cannot be read by this user: /home/ada/asked.jsonl" in one for one in check(settings)
    )
    assert settings.embedding.model == str(folder / "minilm")
    assert settings.generator.model == "org/model"
    assert load(folder / "config.toml", {"MEMEX_STATE_DIR": "here"}).state_dir == tmp_path / "here"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().retrieval.k = 3


def test_show_says_where_each_value_comes_from(tmp_path: Path) -> None:
    path = written(tmp_path, "[retrieval]\nk = 5\n")
    environ = {"MEMEX_REFRESH__RANK": "4"}
    shown = json.loads(json.dumps(show(load(path, environ), environ)))
    assert shown["settings"]["retrieval"]["k"] == 5
    assert shown["settings"]["refresh"]["rank"] == 4
    assert shown["origins"]["retrieval.k"] == "file"
    assert shown["origins"]["refresh.rank"] == "environment"
    assert shown["origins"]["state_dir"] == "default"
    assert set(shown["origins"]) == {".".join(key) for key in keys(Settings)}


def test_socket_is_where_it_is_set_else_in_the_state_directory(tmp_path: Path) -> None:
    assert socket_path(Settings(state_dir=tmp_path)) == tmp_path / "run" / "memex.sock"
    assert socket_path(load(written(tmp_path, '[api]\nsocket = "/s"'), {})) == Path("/s")


def test_loading_is_quick_and_imports_no_engine() -> None:
    code = (
        "import sys, daemon.config; daemon.config.load(daemon.config.Path(sys.argv[1]), {});"
        "print([name for name in ('torch', 'lancedb', 'apscheduler', 'sqlmodel', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, SHIPPED], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# What is wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n[ingest]\nsettle_secnds = 1", "3: ingest.settle_secnds: unknown key; did you mean settle_seconds?"),
        ("[chunkin]\ntokens = 3", "1: chunkin: unknown key; did you mean chunking?"),
        ('[[sources]]\npath = "/a"\ntag = []', "3: sources[0].tag: unknown key; did you mean tags?"),
        ('[[sources]]\nname = "a"', "1: sources[0].path: is missing"),
        ('[retrieval]\nk = "many"', '2: retrieval.k: should be a valid integer, not "many"'),
        ("[retrieval]\nk = true", "2: retrieval.k: should be a valid integer, not true"),
        ("[retrieval]\nk = 0", "2: retrieval.k: should be greater than or equal to 1, not 0"),
        ("[refresh]\nminutes = inf", "2: refresh.minutes: should be a finite number, not Infinity"),
        ('[[sources]]\npath = "/a"\ntags = "v2"', '3: sources[0].tags: should be a valid array, not "v2"'),
        ("[[ingest]]\nmax_file_mb = 3", '1: ingest: should be a table, not [{"max_file_mb": 3}]'),
        ('state_dir = ""', "1: state_dir: should be a path, not empty"),
        ('[[sources]]\npath = "/"', "1: sources[0].name: this folder has no name of its own; give the source one"),
        ('[embedding]\nbackend = "abacus"', "2: embedding.backend: should be 'torch' or 'openvino', not \"abacus\""),
        ("[chunking]\noverlap = 200", "2: chunking.overlap: an overlap of 200 tokens is not shorter than a chunk"),
        ("[chunking]\ntokens = 20", "1: chunking.overlap: an overlap of 30 tokens is not shorter than a chunk (20"),
        ('[refresh]\nschedule = "daily"', "2: refresh.schedule: 'daily' is not a schedule: it needs five fields"),
        ('[snapshots]\nkeep_within = "7 days"', "2: snapshots.keep_within: '7 days' is no duration"),
        ("[snapshots]\nkeep_last = -1", "2: snapshots.keep_last: should be greater than or equal to 0, not -1"),
        ('[snapshots]\nschedule = "0 25 * * *"', "2: snapshots.schedule: '0 25 * * *' is not a schedule"),
        ('[backup]\nschedule = "30 2 * * *"', "2: backup.schedule: should come with backup.dir"),
        ("a = 1\nb = = 2", "2: not TOML: Invalid value"),
        ('a = "', "1: not TOML:"),
    ],
)
def test_a_fault_is_said_with_file_line_and_key(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    (fault,) = faults(path)
    assert fault.startswith(f"{path}:{expected}")


def test_every_fault_is_said(tmp_path: Path) -> None:
    text = '[ingest]\nsettle = 1\nbatch_documents = "x"\n[chunking]\ntokens = 1\n[foo]\n'
    assert len(faults(written(tmp_path, text), {"MEMEX_REFRESH__RANK": "x", "MEMEX_REFRESH__RANG": "1"})) == 6


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"MEMEX_REFRESH__MINUTES": "soon"}, 'MEMEX_REFRESH__MINUTES: should be a valid number, not "soon"'),
        ({"MEMEX_SOURCES": "/srv/docs"}, 'MEMEX_SOURCES: should be a valid array, not "/srv/docs"'),
        ({"MEMEX_SOURCES": '[{"path": 1}]'}, "MEMEX_SOURCES[0].path: should be a valid string, not 1"),
        (
            {"MEMEX_REFRESH__MINUTS": "1"},
            "MEMEX_REFRESH__MINUTS: unknown setting; did you mean MEMEX_REFRESH__MINUTES?",
        ),
        ({"MEMEX_API_SOCKET": "/s"}, "MEMEX_API_SOCKET: unknown setting; did you mean MEMEX_API__SOCKET?"),
        ({"MEMEX_INGEST__XYZZY": "1"}, "MEMEX_INGEST__XYZZY: unknown setting"),
        ({"MEMEX_STATE_DIR": "/\udcff"}, "MEMEX_STATE_DIR: not UTF-8"),
        ({"MEMEX_CONFIG": "/nowhere.toml"}, "/nowhere.toml: cannot be read: No such file or directory"),
    ],
)
def test_a_fault_of_the_environment_names_the_variable(environ: dict[str, str], expected: str) -> None:
    assert faults(None if "MEMEX_CONFIG" in environ else SHIPPED, environ) == [expected]


def test_variables_of_others_are_left_alone() -> None:
    assert load(SHIPPED, {"MEMEX_PORT": "tcp://10.0.0.1:80", "MEMEX_SERVICE_HOST": "10.0.0.1"}) == Settings()


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    assert faults(tmp_path / "config.toml") == [f"{tmp_path}/config.toml:2: not UTF-8"]
    assert faults(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("docs", "docs", "{0}/docs is a source already ('docs')"),
        ("docs", "docs/old", "{0}/docs/old lies in the source 'docs' ({0}/docs)"),
        ("docs/old", "docs", "{0}/docs contains the source 'old' ({0}/docs/old)"),
        ("docs", "link", "{0}/link is a source already ('docs')"),
        ("docs", "other/docs", "two sources are named 'docs'; give one of them another name"),
        ("docs", ".", "{0} contains the state directory {0}/state"),
        ("docs", "state/cache", "{0}/state/cache lies in the state directory {0}/state"),
        ("docs", "docs2", ""),
    ],
)
def test_sources_keep_apart(tmp_path: Path, first: str, second: str, expected: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "link").symlink_to("docs")
    text = f'state_dir = "state"\n[[sources]]\npath = "{first}"\n[[sources]]\npath = "{second}"\n'
    path = written(tmp_path, text)
    if not expected:
        assert len(load(path, {}).sources) == 2
        return
    line, key = (4, "name") if "named" in expected else (5, "path")
    assert f"{path}:{line}: sources[1].{key}: {expected.format(tmp_path)}" in faults(path)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("docs/backup", "{0}/docs/backup lies in the source 'docs' ({0}/docs)"),
        ("link", "{0}/link lies in the source 'docs' ({0}/docs)"),
        ("state/backup", "{0}/state/backup lies in the state directory {0}/state"),
        ("docs2", ""),
    ],
)
def test_the_backup_lies_elsewhere(tmp_path: Path, folder: str, expected: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "link").symlink_to("docs")
    path = written(tmp_path, f'state_dir = "state"\n[[sources]]\npath = "docs"\n[backup]\ndir = "{folder}"\n')
    if not expected:
        assert load(path, {}).backup.dir == str(tmp_path / folder)
        return
    assert faults(path) == [f"{path}:4: backup: {expected.format(tmp_path)}"]


# What does not fit the disk


def test_check_names_what_is_missing_on_disk_and_load_does_not_mind(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    path = written(tmp_path, "".join(f'[[sources]]\npath = "{name}"\n' for name in ("there", "gone", "file")))
    settings = load(path, {})
    assert check(settings, path)[:2] == [
        f"{path}:4: sources[1].path: no such folder: {tmp_path}/gone",
        f"{path}:6: sources[2].path: not a folder: {tmp_path}/file",
    ]


def test_check_of_a_fitting_configuration_is_silent(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    settings = Settings(state_dir=tmp_path / "state", sources=(Source(path=source),))
    assert [problem for problem in check(settings) if "socket" not in problem] == []


def test_check_names_a_state_directory_that_is_a_file_and_a_socket_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problems = check(Settings(state_dir=tmp_path / "file", sources=()))
    assert problems[:2] == ["sources: no sources: nothing to watch", f"state_dir: not a folder: {tmp_path}/file"]
    assert "api.socket: longer than 107 bytes" in check(Settings(state_dir=Path("/" + "x" * 120)))[-1]


# Lines


TOML = """\
# a comment
top = 1
"quoted key" = 2
dotted.key = 3
long = [
  1,
  # [not.a.table]
  2,
]
text = '''
[nor.this]
'''

[a]
x = 1
[a.b]
y = { z = 1, w = [1, 2] }

[[c]]
n = 1
[c.sub]
m = 1
[[c]]

n = 2
[[c.deep]]
q = 1
"""


def test_a_folder_that_may_not_be_entered_has_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another user's command is run, as by `sudo -u memex`."""

    def closed(path: Path) -> bool:
        if not path.is_absolute():
            raise PermissionError(13, "Permission denied")
        return path == Path("/etc/memex/config.toml")

    monkeypatch.setattr(Path, "is_file", closed)
    assert find_file(None, {}) == Path("/etc/memex/config.toml")


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("top",), 2),
        (("quoted key",), 3),
        (("dotted", "key"), 4),
        (("long",), 5),
        (("long", 1), 5),
        (("text",), 10),
        (("a",), 14),
        (("a", "x"), 15),
        (("a", "b"), 16),
        (("a", "b", "y", "w", 1), 17),
        (("a", "absent"), 14),
        (("c", 0), 19),
        (("c", 0, "n"), 20),
        (("c", 0, "sub", "m"), 22),
        (("c", 1), 23),
        (("c", 1, "n"), 25),
        (("c", 1, "deep", 0, "q"), 27),
        (("nowhere",), None),
    ],
)
def test_locate_line(key: tuple[str | int, ...], line: int | None) -> None:
    assert locate_line(TOML, key) == line


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["# note", "x = [\n1,\n2]", "y = '''\n\n'''", "z = 1"]))))
def test_locate_line_finds_each_block_of_a_list(blocks: list[tuple[int, str]]) -> None:
    text, expected = "", []
    for blank, body in blocks:
        text += "\n" * blank
        expected.append(text.count("\n") + 1)
        text += f"[[block]]\n{body}\n"
    assert [locate_line(text, ("block", index)) for index in range(len(blocks))] == expected
