"""The house's rules, read from the source: who may import whom, what is packaged, how long a module may be."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

from daemon import collisions

ROOT = Path(__file__).parent.parent
BELOW = {"store": set(), "trainers": {"store"}, "daemon": {"store", "trainers"}}  # what each package may import of ours
ENGINES = {
    "watchdog": r"daemon/watcher\.py",
    "apscheduler": r"daemon/scheduler\.py",
    "lancedb": r"store/vectors/.*",
    "lance": r"store/vectors/.*",
    "sqlmodel": r"store/catalogue(\.py|/.*)",
    "sqlalchemy": r"store/catalogue(\.py|/.*)",
    "peft": r"trainers/lora\.py",
    "sentence_transformers": r"store/(sentences|reranking)\.py",
    "openvino": r"store/openvino\.py",
}
SLOW = {
    "torch",
    "transformers",
    "peft",
    "sentence_transformers",
    "openvino",
}  # only inside the functions that need them
LONGEST = 400
TOP = {
    "pyproject.toml",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "config.toml",
    "daemon",
    "store",
    "trainers",
    "systemd",
    "tests",
}
MODULES = sorted(str(path.relative_to(ROOT)) for package in BELOW for path in (ROOT / package).rglob("*.py"))


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), module)


def imported(nodes: Iterator[ast.AST], module: str) -> set[str]:
    """The top-level packages that import statements among `nodes` name."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0] if node.module and not node.level else module.split("/")[0])
        elif isinstance(node, ast.Call) and re.fullmatch(
            r"__import__|(importlib\.)?import_module", ast.unparse(node.func)
        ):
            names |= {str(name.value).split(".")[0] for name in node.args[:1] if isinstance(name, ast.Constant)}
    return names


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not in functions, nor what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from at_import(child)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    package = module.split("/")[0]
    ours = imported(ast.walk(tree(module)), module) & (BELOW.keys() | {"tests"})
    assert ours <= BELOW[package] | {package}


@pytest.mark.parametrize("module", MODULES)
def test_each_engine_is_imported_in_its_own_module_only(module: str) -> None:
    names = imported(ast.walk(tree(module)), module) & ENGINES.keys()
    assert [name for name in names if not re.fullmatch(ENGINES[name], module)] == []


@pytest.mark.parametrize("module", MODULES)
def test_slow_libraries_are_imported_in_functions(module: str) -> None:
    assert imported(at_import(tree(module)), module) & SLOW == set()


@pytest.mark.parametrize("module", MODULES)
def test_modules_can_be_read_in_one_sitting(module: str) -> None:
    assert len((ROOT / module).read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_the_rules_would_notice_a_breach() -> None:
    breach = ast.parse(
        "class A:\n  import torch\ndef f():\n  from peft import x\n  import_module('lance.y')\nfrom . import z"
    )
    assert imported(ast.walk(breach), "store/x.py") == {"torch", "peft", "lance", "store"}
    assert imported(at_import(breach), "store/x.py") == {"torch", "store"}


def test_every_package_is_packaged() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {PurePosixPath(module).parent for module in MODULES}
    assert sorted(listed) == sorted(str(folder).replace("/", ".") for folder in folders)
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


def test_no_other_distribution_brings_packages_of_our_names() -> None:
    assert collisions.foreign_providers() == {}


def test_a_collision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"daemon": ["memexd", "python-daemon"], "store": ["Memexd"], "numpy": ["numpy"]}
    monkeypatch.setattr(collisions, "packages_distributions", lambda: installed)
    assert collisions.foreign_providers() == {"daemon": ["python-daemon"]}


def test_the_top_of_the_repository_is_tidy() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: " + listed.stderr.strip())
    top = {name.split("/")[0] for name in listed.stdout.split("\0") if name}
    assert {name for name in top if not name.startswith(".")} <= TOP
