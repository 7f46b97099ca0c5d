"""Fixtures and rules shared by all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lumina.config import Config
    from training import Trainings

# What is imported and collected stays: a third of the time of collecting the tests went
# into looking for garbage there. See `_keep`.
gc.disable()

# Before anything imports torch: one arithmetic thread to a test process, so that tests
# side by side do not fight over cores; and nothing may reach for a network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell that starts the tests in the background lets them, and all that they start,
# ignore Ctrl-C, which several of them send.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["ledger_plugin", "seeds"]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def lumina_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache folder for this session, for child processes too."""
    from spared import keep_speeds, spare

    spare()
    folder = tmp_path_factory.mktemp("lumina-cache")
    keep_speeds(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMINA_CACHE", str(folder))
        # No test depends on what the runs of others have left; those about the memory
        # of runs name a file, which need not outlive a power cut.
        patch.setenv("LUMINA_EXPERIENCE", "off")
        patch.setattr("lumina.state.experience.database.SYNCHRONOUS", "OFF")
        yield folder


OURS = (b"LUMINA_", b"MASTER_", b"RANK", b"WORLD_SIZE", b"LOCAL_", b"OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def left_as_found(lumina_cache: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """What no test leaves to those after it; one fixture, as all of them pay for it."""
    environment, compiled = settings(), compiled_graphs()
    # GPU tests of several workers share a device, and leave its memory to others.
    if any(map(request.node.get_closest_marker, ("gpu", "multigpu"))):
        yield from turn_on_the_device(request.node)
    else:
        yield
    if compiled_graphs() != compiled:
        import torch

        # No test finds code that another compiled, nor its count against the limit.
        torch.compiler.reset()
    # What a test found too large for the memory is no limit to the next test.
    (lumina_cache / "memory_limits.json").unlink(missing_ok=True)
    after = settings()
    for name in after.keys() - environment.keys():
        del os.environb[name]
    os.environb.update(environment)
    assert after == environment, "the test changed the environment and left it so"


def settings() -> dict[bytes, bytes]:
    """What the environment says to Lumina or of a launcher."""
    # As bytes, which need not be decoded twice for each of nine thousand tests.
    return {k: x for k, x in os.environb.items() if k.startswith(OURS)}


def compiled_graphs() -> int:
    """How many graphs were compiled in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0


def turn_on_the_device(test: pytest.Item) -> Iterator[None]:
    """Wait for a turn on the device, and give its memory back afterwards."""
    import torch

    from device_turns import turn

    with turn(alone=test.get_closest_marker("whole_device") is not None):
        yield
        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party data beside the checkout; skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four small text files (about 20 kB): sentences with a pattern."""
    folder = tmp_path_factory.mktemp("tiny-corpus")
    animals = ["cat", "dog", "owl", "fox", "hen"]
    places = ["barn", "hill", "lake", "wood", "yard", "roof", "moor"]
    for part in range(4):
        lines = [
            f"The {animals[(n + part) % 5]} went to the {places[(n * (part + 2)) % 7]} "
            f"on day {n} and came back on day {n + part + 1}."
            for n in range(80)
        ]
        (folder / f"part-{part}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def tiny_config(tiny_corpus: Path, tmp_path: Path) -> Config:
    """A dense model of two blocks on `tiny_corpus`: ten steps, seconds on one core."""
    from lumina.config import ConfigPresets

    return ConfigPresets.debug().replace(
        train_data=(str(tiny_corpus),),
        run_dir=str(tmp_path / "run"),
        tokenizer_vocab_size=300,
        use_moe=False,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        seq_length=32,
        global_batch_size=4,
        batch_size=4,
        steps=10,
        warmup_steps=2,
        learning_rate=3e-3,
        precision="fp32",
        device="cpu",
        eval_batches=2,
        log_every_n_batches=5,
        seed=1,
    )


_modules = [0]
"""How many there were when what stays was last told apart."""


def pytest_collection_finish() -> None:
    """Look for garbage from here on."""
    gc.enable()
    _keep()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Modules that tests import stay as well."""
    if len(sys.modules) > _modules[0] + 100:
        _keep()


def _keep() -> None:
    """Spare the garbage collector the modules and tests, which stay to the end.

    Programs that are taken down look for garbage. With half a million objects of
    libraries and tests to go through each time, that was half of what tests computed.
    """
    gc.collect()
    gc.freeze()
    _modules[0] = len(sys.modules)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests whose devices are not here, and say so."""
    needed = 2 if item.get_closest_marker("multigpu") else 1
    if needed == 1 and not item.get_closest_marker("gpu"):
        return
    import torch

    if torch.cuda.device_count() < needed:
        pytest.skip(f"needs {needed} CUDA device(s)")


@pytest.fixture(scope="module")
def trainings(
    tmp_path_factory: pytest.TempPathFactory, lumina_cache: Path, tiny_corpus: Path
) -> Trainings:
    """Runs of this module in processes of their own, on the tiny corpus."""
    from training import Trainings

    return Trainings(tmp_path_factory.mktemp("runs"), tiny_corpus)
