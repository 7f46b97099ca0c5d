"""From a Config to a run directory with a trained model in it, step by step."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lumina.assemble.assemble import Progress, assemble
from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.config import Config, Source
from lumina.data.prepare import Prepared, prepare
from lumina.data.stream import BatchStream, Cursor, eval_batches
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.model.interface import Batch
from lumina.model.spec import ModelSpec
from lumina.observe.console import Console
try:
    from lumina.observe.report import write_report
except ImportError:
    write_report = lambda p: p
from lumina.plan.environment import Environment, probe
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore
from lumina.state.durable import write_file
from lumina.state.exact_json import dumps
from lumina.state.run_directory import RunDirectory
from lumina.state.weights import Weights, open_weights
from lumina.train.controls import Controls
from lumina.train.loop import Best, Loop
from lumina.train.recorder import Recorder
from lumina.train.resume import Resumption, find_resumption
from lumina.train.signals import StopSignals


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        run_dir: where everything is.
        final_loss: of the last step; NaN if no step ran.
        best_eval_loss: None if nothing was evaluated.
        steps: completed steps.
        tokens: tokens seen.
        reason: "done", or why it stopped.
        exit_code: 0, or 130/143 when a signal stopped it.
    """

    run_dir: Path
    final_loss: float
    best_eval_loss: float | None
    steps: int
    tokens: int
    reason: str = "done"
    exit_code: int = 0


class Job:
    """One call of `Trainer.train`, in the order things happen.

    Attributes:
        config: the settings; a resumed run's own, with the changes asked for.
        environment: the machine.
        prepared: the data.
        plan: what is done.
        directory: where it is recorded.
    """

    environment: Environment
    prepared: Prepared
    stream: BatchStream
    plan: Plan
    directory: RunDirectory

    def __init__(self, config: Config, ranks: Ranks, console: Console) -> None:
        self.config = config
        self.ranks = ranks
        self.console = console
        self.started = time.monotonic()
        self.resumption: Resumption | None = None
        self.weights: Weights | None = None
        self.events: list[dict[str, Any]] = []
        self._held: RunDirectory | None = None
        self._recorder: Recorder | None = None
        self._store: CheckpointStore | None = None
        self._loop: Loop | None = None

    # -- before the first step ----------------------------------------------

    def prepare(self) -> TrainResult | None:
        """Find the run to go on with, take its directory, decide the plan.

        Returns:
            The result of a run that is already finished, else None.
        """
        if self.config.run.resume is None and self.ranks.main:
            self._refuse_existing()
        self._resume()
        if self.resumption is not None and self.resumption.finished:
            return self._already_finished(self.resumption)
        if self.resumption is not None:
            # Before reading data: a second writer is refused at once.
            self._take_directory(self.resumption.run, resume=True)
        self.decide()
        return None

    def decide(self, planning: bool = False) -> None:
        """Look at machine, weights and data, and make the Plan; trains nothing.

        Args:
            planning: do without data where none is named.
        """
        if self.resumption is None and not hasattr(self, "environment"):
            self._resume()
        self.environment = probe(self.config)
        if self.config.system.deterministic:
            # Read when cuBLAS makes its handles, which nothing has done yet.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        kind = self.environment.device
        self.ranks.connect("cpu" if self.config.system.device == "cpu" else kind)
        self.environment = self.ranks.share(self.environment)
        if self.config.train.init_from and self.resumption is None:
            self._adopt(open_weights(self.config.train.init_from))
        if not self.config.data.train_data and planning:
            self.plan = self._make_plan_without_data()
            return
        self.prepared = self._prepare_data()
        self.plan = self._make_plan()

    def _refuse_existing(self) -> None:
        folder = self.config.run.run_dir
        if folder and not self.config.run.auto_resume and RunDirectory(folder).is_run:
            raise LuminaError(
                "E002",
                f"there is a run in {folder} already",
                "add --auto-resume to go on with it, or name another --run-dir",
            )

    def _resume(self) -> None:
        self.resumption = find_resumption(self.config)
        if self.resumption is None:
            if self.config.run.auto_resume:
                self._note("fresh_start", "info", "there is no run to go on with yet")
            return
        self.config = self.resumption.config
        self.events += self.resumption.refused
        if self.resumption.reader is None:
            self._note(
                "fresh_start", "info", "the run has no checkpoint yet: it starts afresh"
            )

    def _adopt(self, weights: Weights) -> None:
        """The model's shape is that of the weights it starts from."""
        self.weights = weights
        shape = model_leaves(weights.spec)
        clashes = [
            f"{leaf} {self.config.get(leaf)} is not {value}"
            for leaf, value in shape.items()
            if self.config.provenance[leaf].kind in ("flag", "file", "python")
            and self.config.get(leaf) != value
            and leaf != "seq_length"
        ]
        if clashes:
            raise LuminaError(
                "E002",
                f"the weights in {weights.path} have another shape: "
                + "; ".join(clashes),
                "leave these options out: the shape comes with the weights",
            )
        if self.config.provenance["seq_length"].kind in ("flag", "file", "python"):
            shape.pop("seq_length")
        origin = Source("file", f"weights {weights.path}")
        self.config = self.config.override(shape, origin)
        if self.config.data.tokenizer is None and weights.tokenizer is not None:
            self.config = self.config.override(
                {"tokenizer": str(weights.tokenizer)}, origin
            )

    def _prepare_data(self) -> Prepared:
        """Rank 0 first; the others then open what it made."""
        tokenizer = None
        if self.resumption is not None:
            folder = RunDirectory(self.resumption.run).tokenizer
            if folder.is_dir():
                tokenizer = Tokenizer.from_path(folder)
        prepared = None
        if self.ranks.main:
            prepared = prepare(
                self.config,
                tokenizer=tokenizer,
                on_progress=Progression(self.console),
                on_event=lambda **event: self.events.append(event),
            )
        self.ranks.barrier()
        if prepared is None:
            prepared = prepare(self.config, tokenizer=tokenizer)
        return prepared

    @property
    def rows_per_epoch(self) -> int | None:
        """Rows of one pass over the data, where data was named."""
        return self.stream.rows_per_epoch if hasattr(self, "stream") else None

    def _make_plan_without_data(self) -> Plan:
        """The Plan of a model alone, for `--dry-run`."""
        return make_plan(
            self.config,
            self.environment,
            tokenizer_vocab_size=None,
            rows_per_epoch=None,
            world_size=self.config.system.nproc or self.ranks.world_size,
        )

    def _make_plan(self) -> Plan:
        """The Plan, with what the data says about lengths."""
        train, seq_length = self.config.train, self.config.model.seq_length
        rows = count_rows(self.prepared.train, seq_length)
        held_out = self.prepared.eval
        plan = make_plan(
            self.config,
            self.environment,
            tokenizer_vocab_size=self.prepared.tokenizer.vocab_size,
            rows_per_epoch=rows,
            world_size=self.ranks.world_size,
            eval_rows=count_rows(held_out, seq_length) if held_out else 0,
        )
        self.stream = BatchStream(
            self.prepared.train,
            seq_length=seq_length,
            global_batch_size=plan.global_batch_size,
            seed=plan.seed,
            epochs=train.epochs,
        )
        return plan

    # -- the run ---------------------------------------------------------------

    def build(self, on_row: Callable[[dict[str, Any]], None]) -> Loop:
        """Take the run directory and assemble everything the loop needs."""
        configure_torch(self.plan, self.ranks, self.environment)
        if self._held is None:
            self._take_directory(self._new_directory(), resume=False)
        if self.ranks.main:
            self._write_decisions()
        folder = self.directory.path
        recorder = self._recorder = Recorder(
            folder,
            self.plan,
            self.console,
            main=self.ranks.main,
            device_name=self.environment.device_name,
            on_row=on_row,
        )
        self._store = CheckpointStore(
            folder,
            keep=self.plan.save_total_limit,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            on_event=recorder.event,
        )
        for event in self.events:
            recorder.event(**({"step": None} | event))
        if self.ranks.main:
            self._banner()
        progress, best, controls, program = self._start()
        self._loop = Loop(
            program=program,
            stream=self.stream,
            eval_batches=self._eval_batches,
            progress=progress,
            recorder=recorder,
            checkpoints=self._store,
            controls=controls,
            signals=StopSignals(),
            config=self.config.to_dict(),
            best=best,
        )
        self.console.start(self.plan, progress.step)
        return self._loop

    def run(self) -> TrainResult:
        """The loop, and what follows its end."""
        loop = self._loop
        assert loop is not None
        try:
            with loop.signals:
                loop.run()
        except BaseException as error:
            self._failed(error)
            raise
        result = TrainResult(
            run_dir=self.directory.path,
            final_loss=loop.recorder.last_row.get("loss", math.nan),
            best_eval_loss=None if math.isinf(loop.best.loss) else loop.best.loss,
            steps=loop.progress.step,
            tokens=loop.progress.tokens,
            reason=loop.reason,
            exit_code=(loop.signals.exit_code or 143) if loop.interrupted else 0,
        )
        self._finished(result)
        return result

    def close(self) -> None:
        """Let go of everything, whatever happened."""
        self.console.close()
        try:
            if self._store is not None:
                self._store.close(wait=sys.exc_info()[0] is None)
        finally:
            if self._recorder is not None:
                self._recorder.close()
            if self._held is not None:
                self._held.close()
            self.ranks.disconnect()

    def _start(self) -> tuple[Progress, Best, Controls, Program]:
        """The Program and the loop's memory, from a checkpoint or from nothing."""
        reader = self.resumption.reader if self.resumption else None
        if reader is None:
            source = self.weights.source if self.weights else None
            if self._recorder is not None and self._recorder.metrics is not None:
                self._recorder.metrics.truncate_after(0)
            program = assemble(self.plan, source, ranks=self.ranks)
            cursor = Cursor().to_dict()
            return Progress(cursor=cursor), Best(), Controls(), program
        meta = reader.meta
        self._check_data(meta.extra)
        program = assemble(self.plan, reader, ranks=self.ranks, meta=meta)
        progress = Progress(
            step=meta.step,
            tokens=meta.counters["tokens"],
            skipped=meta.counters["skipped"],
            cursor=meta.cursor,
        )
        best = Best(
            math.inf if meta.extra["best_loss"] is None else meta.extra["best_loss"],
            meta.extra["best_step"],
            meta.extra["worse_evaluations"],
        )
        assert self._recorder is not None and self._store is not None
        self._recorder.skipped = progress.skipped
        self._store.rewind(progress.step)
        if self._recorder.metrics is not None:
            self._recorder.metrics.truncate_after(progress.step)
        self._tell_resumed(reader.path, progress.step)
        reader.close()
        return progress, best, Controls(meta.journal), program

    def _check_data(self, extra: dict[str, Any]) -> None:
        """The position in the data means nothing in other data."""
        if extra["data_fingerprint"] != self.stream.store.fingerprint:
            raise LuminaError(
                "E002",
                "the training data is not what this run was begun with",
                "restore it, or start another run with --init-from",
            )

    def _tell_resumed(self, checkpoint: Path, step: int) -> None:
        assert self._recorder is not None and self.resumption is not None
        changes = self.resumption.changes
        told = "; ".join(f"{k}: {old} -> {new}" for k, (old, new) in changes.items())
        self._recorder.event(
            "resumed",
            "info",
            None,
            f"going on from {checkpoint.name}" + (f" with {told}" if told else ""),
            step=step,
            checkpoint=checkpoint.name,
            world_size=self.ranks.world_size,
        )
        if {"steps", "epochs"} & changes.keys():
            self._recorder.event(
                "schedule_recomputed",
                "info",
                None,
                f"the run now ends at step {self.plan.steps}; the learning rate "
                "follows the schedule of that length from here on",
                step=step,
            )

    def _eval_batches(self, program: Program) -> Iterator[Batch]:
        """This rank's share of the held-out batches, the same rows on any split."""
        if self.prepared.eval is None:
            return iter(())
        plan, ranks = program.plan, program.ranks
        size = plan.micro_batch_size
        rows = plan.eval_batches * plan.global_batch_size
        return eval_batches(
            self.prepared.eval,
            plan.spec.seq_length,
            size,
            max(rows // size, 1),
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

    # -- the run directory -------------------------------------------------------

    def _new_directory(self) -> Path:
        """Where a new run goes: as asked, or a fresh name that all ranks agree on."""
        named = self.config.run.run_dir
        if named is None and self.ranks.main:
            named = str(RunDirectory.new(self.config.preset or "run").path)
        return Path(self.ranks.share(named))

    def _take_directory(self, path: Path, *, resume: bool) -> None:
        self.directory = RunDirectory(path)
        if self.ranks.main:
            auto = self.config.run.auto_resume
            self._held = self.directory.acquire(resume=resume or auto)
        if self.config.run.run_dir != str(path):
            named = Source("default", "named after the preset and the time")
            self.config = self.config.override({"run_dir": str(path)}, named)

    def _write_decisions(self) -> None:
        """config.yaml, plan.json and the tokenizer."""
        self.config.save(self.directory.config)
        plan = dumps(self.plan.to_dict(), indent=1) + "\n"
        write_file(self.directory.plan, plan.encode())
        if not self.directory.tokenizer.is_dir():
            self.prepared.tokenizer.save(self.directory.tokenizer)
        step = 0
        if self.resumption and self.resumption.reader:
            step = self.resumption.reader.meta.step
        self.directory.mark("running", step)

    def _banner(self) -> None:
        shown = ("documents", "conversations", "skipped", "train_tokens", "eval_tokens")
        stats = {key: self.prepared.stats.get(key, 0) for key in shown}
        stats["packing"] = f"{self.stream.utilisation:.1%} of positions used"
        self.console.banner(
            self.plan,
            self.environment,
            stats,
            self.config.provenance,
            title=f"Lumina  {self.directory.path}",
        )

    def _already_finished(self, resumption: Resumption) -> TrainResult:
        """An auto-resumed run that is done stays as it is."""
        assert resumption.reader is not None
        meta = resumption.reader.meta
        status = RunDirectory(resumption.run).status() or {}
        self.console.message(
            f"{resumption.run} is finished at step {meta.step}; raise --steps or "
            "--epochs to train on"
        )
        return TrainResult(
            run_dir=resumption.run,
            final_loss=status.get("data", {}).get("final_loss") or math.nan,
            best_eval_loss=meta.extra["best_loss"],
            steps=meta.step,
            tokens=meta.counters["tokens"],
        )

    def _finished(self, result: TrainResult) -> None:
        if not self.ranks.main:
            return
        assert self._recorder is not None
        status = "interrupted" if result.exit_code else "finished"
        self._recorder.event(
            "run_" + status,
            "warning" if result.exit_code else "info",
            None,
            result.reason,
            step=result.steps,
        )
        loss = result.final_loss if math.isfinite(result.final_loss) else None
        self.directory.mark(
            status, result.steps, final_loss=loss, reason=result.reason
        )
        report = write_report(self.directory.path)
        again = f"lumina train --resume {self.directory.path}"
        chat = f"lumina generate {self.directory.path} --prompt 'Once'"
        self.console.finish(
            {
                "reason": result.reason,
                "steps": result.steps,
                "tokens": result.tokens,
                "seconds": time.monotonic() - self.started,
                "final_loss": loss,
                "best_eval_loss": result.best_eval_loss,
                "run_dir": str(result.run_dir),
                "report": str(report),
                "next": again if result.exit_code else chat,
            }
        )

    def _failed(self, error: BaseException) -> None:
        """Leave word of what went wrong; the error itself goes on to the caller."""
        loop, recorder = self._loop, self._recorder
        if loop is None or recorder is None or not self.ranks.main:
            return
        code = error.code if isinstance(error, LuminaError) else None
        recorder.event(
            "run_failed",
            "critical",
            code,
            getattr(error, "message", f"{type(error).__name__}: {error}"),
            step=loop.progress.step,
        )
        self.directory.mark("failed", loop.progress.step)

    def _note(self, kind: str, severity: str, message: str) -> None:
        self.events.append(
            {"kind": kind, "severity": severity, "code": None, "message": message}
        )


class Progression:
    """Shows how far the preparation of the data is, at most once a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Told of every block; amounts are bytes."""
        now = time.monotonic()
        if now - self._shown >= 1.0 and total:
            self._shown = now
            share = min(done / total, 1.0)
            self._console.message(f"data: {stage} {share:.0%} of {total / 1e6:.1f} MB")


def count_rows(store: Any, seq_length: int) -> int:
    """Rows that a store's documents pack into."""
    from lumina.data.packing import pack

    return len(pack(store, seq_length))


def model_leaves(spec: ModelSpec) -> dict[str, Any]:
    """A shape as options of the configuration."""
    leaves = spec.to_dict()
    leaves.pop("vocab_size")
    leaves["vocab_size"] = leaves.pop("padded_vocab_size")
    moe = leaves.pop("moe")
    leaves["use_moe"] = moe is not None
    if moe is not None:
        leaves |= {
            "num_experts": moe["num_experts"],
            "moe_top_k": moe["top_k"],
            "moe_intermediate_size": moe["intermediate_size"],
            "moe_pattern": _pattern(spec),
            "moe_normalise_top_k": moe["normalise_top_k"],
        }
    return leaves


def _pattern(spec: ModelSpec) -> str:
    """The pattern that gives a spec's routed layers."""
    from lumina.plan.shape import routed_layers

    assert spec.moe is not None
    for pattern in ("all", "interleaved", "sandwich"):
        if routed_layers(pattern, spec.num_layers) == spec.moe.layers:
            return pattern
    raise LuminaError(
        "E002",
        f"no pattern gives routed layers {spec.moe.layers} of {spec.num_layers}",
        "patterns are all, interleaved and sandwich",
    )


def configure_torch(plan: Plan, ranks: Ranks, environment: Environment) -> None:
    """Process-wide switches that the Plan decided."""
    torch.set_float32_matmul_precision("high" if plan.tf32 else "highest")
    torch.use_deterministic_algorithms(plan.deterministic)
    if plan.device == "cpu":
        torch.set_num_threads(max(environment.cores // ranks.local_size, 1))
