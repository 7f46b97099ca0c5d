"""A full disk stops a save with E204; what was saved before stays."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from import_path import finding
from lumina.errors import LuminaError
from lumina.state import unwritten
from lumina.state.checkpoint import CheckpointStore, open_checkpoint
from mechanisms import mechanism
from states import Events, assert_state_is, make_state, unprivileged
from training import start_process

ROOT = Path(__file__).resolve().parents[2]


def assert_untouched(run, step=1):
    assert sorted(os.listdir(run / "checkpoints")) == ["LATEST", f"step-{step:08d}"]
    latest = CheckpointStore(run).latest_good()
    assert_state_is(open_checkpoint(latest).state(), make_state(step))


@mechanism(
    "too little space is reported",
    component="disk",
    failure="the system reports less free space than a checkpoint takes",
    recovery="refuse",
    expected="E204 before a byte is written; saving works once there is room",
    real=False,
)
@pytest.mark.faults
def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    events = Events()
    store = CheckpointStore(tmp_path, keep=1, on_event=events.emit)
    store.save(make_state(1), background=False)
    monkeypatch.setattr(unwritten, "free_bytes", lambda _: 1000)
    with pytest.raises(LuminaError) as caught:
        store.save(make_state(2))
    assert caught.value.code == "E204" and "1,000" in caught.value.message
    assert [e["code"] for e in events.of("checkpoint_failed")] == ["E204"]
    assert_untouched(tmp_path)
    monkeypatch.undo()
    store.save(make_state(2), background=False)
    assert_untouched(tmp_path, 2)


IN_A_SMALL_FILE_SYSTEM = """
    import os, sys
    from pathlib import Path
    from states import Events, assert_state_is, make_state
    from lumina.errors import LuminaError
    from lumina.state import unwritten
    from lumina.state.checkpoint import CheckpointStore, open_checkpoint

    run = Path(sys.argv[1])
    events = Events()
    store = CheckpointStore(run, keep=5, on_event=events.emit)
    codes = []
    step = saved = 0
    for check in (True, False):  # told beforehand; then by the write itself
        if not check:
            unwritten.free_bytes = lambda _: 10**15
        while True:
            step += 1
            try:
                store.save(make_state(step, 4096), background=False)
                saved = step
            except LuminaError as error:
                codes.append(error.code)
                break
        good = store.latest_good()
        assert_state_is(open_checkpoint(good).state(), make_state(saved, 4096))
        names = {p.name.split("-")[0] for p in store.folder.iterdir()}
        assert names == {"step", "LATEST"}, names
    kinds = ("checkpoint_failed", "checkpoint_removed")
    print(*codes, *(len(events.of(kind)) for kind in kinds))
"""


@pytest.mark.faults
@pytest.mark.covers("CKP-13: atomic writing")
def test_a_file_system_that_really_is_full(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: a small file system cannot be mounted here")
    target = tmp_path / "small"
    target.mkdir()
    script = tmp_path / "fill.py"
    script.write_text(textwrap.dedent(IN_A_SMALL_FILE_SYSTEM))
    mount = f"mount -t tmpfs -o size=2m none {target}"
    enter = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*enter, mount], capture_output=True).returncode:
        pytest.skip("this account may not mount a small file system")
    done = subprocess.run(
        [*enter, f'{mount} && "{sys.executable}" "{script}" "{target}/run"'],
        env=finding(ROOT / "src", ROOT / "tests"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["E204", "E204", "2", "0"]


def save_within_100_kb(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    store = CheckpointStore(path)
    store.save(make_state(2, rows=10_000))
    try:
        store.wait()
    except LuminaError as error:
        os._exit(42 if error.code == "E204" else 1)
    os._exit(2)


@pytest.mark.faults
def test_the_system_refusing_more_bytes_in_the_middle_of_a_file(tmp_path):
    """A real refused write, where no file system may be mounted."""
    store = CheckpointStore(tmp_path)
    store.save(make_state(1), background=False)

    process = start_process(save_within_100_kb, tmp_path)
    process.join()
    assert process.exitcode == 42
    assert_untouched(tmp_path)


@mechanism(
    "checkpoint folder not writable",
    component="disk",
    failure="permission to write in the folder of checkpoints is taken away",
    recovery="refuse",
    expected="E106; the older checkpoints stay",
)
@pytest.mark.faults
def test_no_permission_to_write_is_e106(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(make_state(1), background=False)
    with unprivileged(tmp_path / "checkpoints"):
        store.save(make_state(2))
        with pytest.raises(LuminaError, match="E106"):
            store.wait()
    assert_untouched(tmp_path)
