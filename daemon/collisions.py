"""Whether another installed distribution claims the names of our packages (python-daemon calls itself `daemon` too)."""

from __future__ import annotations

import re
from importlib.metadata import packages_distributions

DISTRIBUTION = "memexd"
PACKAGES = ("daemon", "store", "trainers")


def foreign_providers() -> dict[str, list[str]]:
    """Each of our top-level packages that other distributions bring too, with their names; empty is well."""
    providers = packages_distributions()
    foreign = {package: sorted(set(map(_normal, providers.get(package, []))) - {DISTRIBUTION}) for package in PACKAGES}
    return {package: names for package, names in foreign.items() if names}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
