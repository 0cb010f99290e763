"""What all tests share: no network, no deadlines on a busy machine, the converted language model."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No deadlines: the machine's other work is no failure. In CI the same examples each time, elsewhere new ones.
settings.register_profile("memex", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("memex")

# Before anything imports huggingface_hub: a test that reaches for the hub fails at once instead of waiting.
os.environ["HF_HUB_OFFLINE"] = "1"
# OpenMP threads that sleep at barriers: other work on the same cores costs a share, not a multiple.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Where converted models are kept from one run of the tests to the next."""
    return Path(os.environ.get("MEMEX_TEST_MODELS", ROOT / ".cache" / "models"))


@pytest.fixture(scope="session")
def smollm_path(models_dir: Path) -> Path:
    """The shipped language model, converted once (about 45 s)."""
    from trainers.model import resolve

    return resolve("default", models_dir)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A process that does what it is told and is killed for it (`tests/faults/driver.py`)."""
    from tests.faults import disk
    from tests.faults.driver import Driver

    one = Driver(disk.build(tmp_path_factory.mktemp("disk")))
    yield one
    one.close()


@pytest.fixture
def needs_compiler() -> None:
    from tests.faults import disk

    if disk.COMPILER is None:
        pytest.skip("needs a C compiler, to act at system calls")


@pytest.fixture
def needs_mounts() -> None:
    from tests.faults import mounts

    if why := mounts.why_no_mounts():
        pytest.skip(why)


@pytest.fixture
def needs_power_cuts(needs_compiler: None) -> None:
    from tests.faults import mounts

    if why := mounts.why_no_power_cuts():
        pytest.skip(why)
