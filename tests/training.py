"""Runs of `lumina train` in processes of their own, and what they leave behind."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from queue import Empty

from torch import Tensor

from held_runs import endless_evaluation, hold_after, signals_elsewhere
from lumina.assemble.ranks import meeting_place
from lumina.child_processes import die_with_parent
from lumina.state.reader import latest_good, open_checkpoint
from spared import spare

# A server that has imported everything forks each run: seconds saved at every start,
# and a real process that can be killed. Whatever else a run imports, it pays for anew.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "lumina.cli.main",
        "lumina.cli.train",
        "lumina.cli.chat",
        "lumina.infer.chat",
        "lumina.infer.load",
        "lumina.train",
        "torch.distributed.fsdp",
        "torch._dynamo",
        "lumina.parallel.sharding",
        "lumina.cli.parsing",
        "lumina.ops.moe.segments",
        "numpy.random",
        "psutil",
        "child_ahead",
    ]
)


def _process(target: Callable[..., None], arguments: tuple[object, ...]):
    """A process that the server will fork; the server finds `child_ahead`."""
    paths = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = here if paths is None else f"{here}{os.pathsep}{paths}"
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if paths is not None:
            os.environ["PYTHONPATH"] = paths
    return _CONTEXT.Process(target=target, args=arguments)


def words(text: str, **options: object) -> list[str]:
    """Flags from text, then from keywords: a list of words."""
    flags = text.split()
    for name, value in options.items():
        flags.append("--" + name.replace("_", "-"))
        if value is not True:
            flags.append(str(value))
    return flags


SHAPE = words(
    "--preset debug --hidden-size 32 --intermediate-size 64 --num-layers 2 "
    "--num-heads 2 --num-kv-heads 1 --seq-length 32 --tokenizer-vocab-size 300 "
    "--global-batch-size 4 --batch-size 4 --eval-batches 2 --learning-rate 3e-3 "
    "--warmup-steps 2 --device cpu --seed 7"
)
DENSE = ["--no-use-moe"]
MOE = words("--use-moe --num-experts 4 --moe-intermediate-size 32")

TRAJECTORY = (
    "step",
    "tokens",
    "epoch",
    "loss",
    "grad_norm",
    "learning_rate",
    "eval_loss",
    "skipped",
    "moe.load",
)
"""What must not change, bit for bit, when a run is interrupted."""

PATIENCE = 240.0
"""Seconds until something that never happens is given up; generous for busy cores."""


def _lumina(arguments, environment, log, terminal, before):
    """In the child: the command, with its output in a file or on a terminal."""
    os.setsid()
    die_with_parent()  # the server, which ends with the tests
    gc.freeze()  # what the server has imported stays, and need not be gone through
    # As a terminal has them: tests that were started with & or nohup ignore some.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if terminal:
        for number in (0, 1, 2):
            os.dup2(os.open(log, os.O_RDWR), number)
        sys.stdin = open(0)  # noqa: SIM115
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
    else:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    os.environ.update(environment)
    spare()
    sys.argv = ["lumina", *arguments]
    import torch

    from lumina.cli.main import main

    for name in environment.get("CLOSED", "").split():
        # As Python finds and leaves them where a shell had closed them.
        os.close(("stdin", "stdout", "stderr").index(name))
        setattr(sys, name, None)
    if "NOHUP" in environment:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which is all that nohup does
    if "SIGNALS_ELSEWHERE" in environment:
        signals_elsewhere()
    if "HOLD_AFTER" in environment:
        hold_after(int(environment["HOLD_AFTER"]), environment.get("HEARD"))
    if "ENDLESS_FROM" in environment:
        endless_evaluation(int(environment["ENDLESS_FROM"]), environment["EVALUATING"])
    if before is not None:
        before()
    torch.set_num_threads(1)
    code = main(arguments)
    os._exit(code)


@dataclass
class Running:
    """A run under way.

    Attributes:
        process: the process.
        log: where its output goes.
    """

    process: multiprocessing.process.BaseProcess
    log: Path

    def wait(self) -> int:
        """Exit code, negative for a signal that ended it."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.kill()
            raise AssertionError(f"still running:\n{self.output}")
        return self.process.exitcode

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.join()

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    @property
    def alive(self) -> bool:
        return self.process.exitcode is None

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def start(
    arguments: list[str],
    log: Path,
    *,
    terminal: bool = False,
    before: Callable[[], None] | None = None,
    **environment: str,
) -> Running:
    """Start `lumina ARGUMENTS`.

    With HOLD_AFTER="3" in its environment, a training waits after that step until a
    signal comes, and with HEARD=FILE for ever (`held_runs.hold_after`). With
    ENDLESS_FROM and EVALUATING=FILE an evaluation never ends
    (`held_runs.endless_evaluation`). With NOHUP it ignores a hang-up, and with
    CLOSED="stdin stderr" it has no such streams. For SIGNALS_ELSEWHERE see
    `held_runs.signals_elsewhere`.

    Args:
        arguments: what stands behind `lumina`.
        log: where its output goes.
        terminal: `log` is a terminal, which its input comes from too.
        before: called in the process before the command, to change what it does.
        environment: what is set for it besides.
    """
    here = {
        "LUMINA_CACHE": os.environ["LUMINA_CACHE"],
        "OMP_NUM_THREADS": "1",
    }
    process = _process(
        _lumina, (arguments, here | environment, str(log), terminal, before)
    )
    process.start()
    _started.append(process)
    return Running(process, log)


# Test modules are imported as tests.FOLDER.MODULE, in processes of their own as well.
if (_ROOT := str(Path(__file__).parents[1])) not in sys.path:
    sys.path.append(_ROOT)

_started: list[multiprocessing.process.BaseProcess] = []


@atexit.register
def _end_all() -> None:
    """What a failed test left behind; Python would wait for it at its end."""
    for process in _started:
        if process.exitcode is None:
            process.kill()


def start_ranks(
    arguments: list[str],
    name: Path,
    world_size: int = 2,
    *,
    before: Callable[[], None] | None = None,
    **environment: str,
) -> tuple[object, list[Running]]:
    """Start `lumina ARGUMENTS` in several processes, as torchrun does.

    Returns:
        Where the ranks meet, to be held while they run, and they themselves, whose
        output goes to NAME.RANK.log.
    """
    store, place = meeting_place()
    return store, [
        start(
            arguments,
            name.with_name(f"{name.name}.{rank}.log"),
            before=before,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            **place,
            **environment,
        )
        for rank in range(world_size)
    ]


def train_on_two_ranks(config) -> None:
    """One run in two processes from beginning to end; what they say lies beside it."""
    run = Path(config.run.run_dir)
    file = run.with_name(f"{run.name}.yaml")
    config.save(file)
    _store, running = start_ranks(["train", "--config-file", str(file)], run)
    assert_ranks_end(running)


def assert_ranks_end(running: list[Running], code: int = 0) -> None:
    """Wait for all ranks; where one ends otherwise, show all codes and its output."""
    codes = [_ending(rank) for rank in running]
    wrong = [
        f"rank {number} ended with {found}:\n{rank.output}"
        for number, (found, rank) in enumerate(zip(codes, running, strict=True))
        if found != code
    ]
    assert not wrong, "\n".join([f"the ranks ended with {codes}", *wrong])


def _ending(rank: Running) -> int | str:
    """Its exit code; one that does not end must not hide what the others say."""
    rank.process.join(PATIENCE)
    if rank.process.exitcode is None:
        rank.kill()
        return f"a kill after {PATIENCE:g} s"
    return rank.process.exitcode


@dataclass
class Trainings:
    """Makes runs below one folder.

    Attributes:
        folder: where runs and logs go.
        data: what they train on.
        flags: that all of them share.
        stores: where ranks met, open as long as they may run.
    """

    folder: Path
    data: Path
    flags: list[str] = field(default_factory=list)
    stores: list[object] = field(default_factory=list)

    def command(self, run: str | Path, *flags: str) -> list[str]:
        """The words of a training into folder/run."""
        where = ["--train-data", str(self.data), "--run-dir", str(self.folder / run)]
        return ["train", *SHAPE, *self.flags, *where, *flags]

    def start(
        self,
        run: str,
        *flags: str,
        before: Callable[[], None] | None = None,
        **environment: str,
    ) -> Running:
        """Begin one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{run}.log"
        return start(self.command(run, *flags), log, before=before, **environment)

    def train(self, run: str, *flags: str, code: int = 0, **environment: str) -> Path:
        """One run from beginning to end; returns its directory."""
        running = self.start(run, *flags, **environment)
        assert running.wait() == code, running.output
        return self.folder / run

    def ranks(
        self,
        run: str,
        *flags: str,
        world_size: int = 2,
        before: Callable[[], None] | None = None,
        **environment: str,
    ):
        """Begin one in several processes, as torchrun does."""
        command = self.command(run, *flags)
        name = self.folder / run
        store, running = start_ranks(
            command, name, world_size, before=before, **environment
        )
        self.stores.append(store)
        return running

    def train_on_ranks(self, run: str, *flags: str, world_size: int = 2) -> Path:
        """One run in several processes from beginning to end."""
        running = self.ranks(run, *flags, world_size=world_size)
        assert_ranks_end(running)
        return self.folder / run

    def output(self, run: str) -> str:
        return (self.folder / f"{run}.log").read_text()


def rows(run: Path) -> list[dict]:
    """The rows of metrics.jsonl that are whole."""
    return whole_lines(run / "metrics.jsonl")


def whole_lines(path: Path) -> list[dict]:
    """What stands in a file that may be written at this moment."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def trajectory(run: Path) -> list[dict]:
    """Of each step, what must not depend on interruptions."""
    return [{k: row[k] for k in TRAJECTORY if k in row} for row in rows(run)]


def column(run: Path, name: str) -> list[float]:
    """One metric of all rows that have it."""
    return [row[name] for row in rows(run) if name in row]


def events(run: Path, kind: str) -> list[dict]:
    """The events of a kind."""
    return [e for e in whole_lines(run / "events.jsonl") if e["kind"] == kind]


def checkpoints(run: Path) -> list[str]:
    """Names of the checkpoints, oldest first."""
    return sorted(p.name for p in (run / "checkpoints").glob("step-*"))


def digests(run: Path, step: int) -> dict[str, str]:
    """sha256 of the tensor files of a checkpoint."""
    manifest = run / "checkpoints" / f"step-{step:08d}" / "manifest.json"
    files = json.loads(manifest.read_text())["files"]
    return {
        name: entry["sha256"]
        for name, entry in files.items()
        if name.endswith(".safetensors")
    }


def final_tensors(run: Path, step: int | None = None) -> dict[str, Tensor]:
    """Weights, and moments and carry as SLOT/NAME, of a checkpoint (the newest)."""
    path = latest_good(run) if step is None else run / f"checkpoints/step-{step:08}"
    assert path is not None
    with open_checkpoint(path) as reader:
        found = {n: reader.tensor(n).clone() for n in reader.names()}
        for slot in reader.slots():
            for name in reader.optimizer_names(slot):
                found[f"{slot}/{name}"] = reader.optimizer_tensor(slot, name).clone()
    return found


def assert_same_run(found: Path, wanted: Path) -> None:
    """Bit for bit: every step's row, and the tensors at the end."""
    expected = trajectory(wanted)
    assert trajectory(found) == expected
    last = expected[-1]["step"]
    assert digests(found, last) == digests(wanted, last)


def wait_until(condition, running: Running | None = None) -> bool:
    """Poll until `condition()`; False when the process ended before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if running is not None and not running.alive:
            return bool(condition())
        assert time.monotonic() < deadline, running.output if running else "too slow"
        time.sleep(0.001)
    return True


def reached(run: Path, step: int):
    """A condition: the run has written the row of `step`."""
    path = run / "metrics.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= step


def saving(run: Path):
    """A condition: a checkpoint is being written."""
    folder = run / "checkpoints"
    return lambda: (
        folder.is_dir()
        and any(name.startswith(".tmp-step") for name in os.listdir(folder))
    )


INTERRUPT, TERMINATE = signal.SIGINT, signal.SIGTERM


def start_process(target: Callable[..., None], *arguments: object):
    """Call a function of a test in a real process of its own, which may be killed."""
    environment = {"LUMINA_CACHE": os.environ["LUMINA_CACHE"], "OMP_NUM_THREADS": "1"}
    process = _process(_called, (environment, target, arguments))
    process.start()
    _started.append(process)
    return process


def _called(environment, target, arguments):
    os.setsid()
    die_with_parent()
    gc.freeze()
    os.environ.update(environment)
    spare()
    import torch

    torch.set_num_threads(1)
    target(*arguments)


def in_processes(target, count, *arguments, answers):
    """Run target(rank, place, *arguments, queue) in processes; what they put.

    `place` is what the environment of a rank needs to meet the others.
    """
    store, place = meeting_place()
    queue = _CONTEXT.Queue()
    processes = [
        _process(target, (rank, place, *arguments, queue)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        found = []
        while len(found) < answers:
            failed = [p.exitcode for p in processes if p.exitcode]
            assert not failed, f"a process ended with {failed}"
            with contextlib.suppress(Empty):
                found.append(queue.get(timeout=1))
        for process in processes:
            process.join(PATIENCE)
        assert [process.exitcode for process in processes] == [0] * count
    finally:
        for process in processes:
            if process.exitcode is None:
                process.kill()
        del store
    return found
