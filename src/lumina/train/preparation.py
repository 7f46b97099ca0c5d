"""What is decided before a run: where it goes on, its data, its Plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.config.phase_entries import Phase, phases_of
from lumina.data.kind import Data, DataKind, Rows
from lumina.data.kinds import chosen_kind, names_data
from lumina.data.stream import RowStream
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.guard.guarded import guarded
from lumina.model.registry import load_plugins
from lumina.observe.console import Console
from lumina.plan.duration import Done
from lumina.plan.environment import Environment, capped, probe
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan
from lumina.plan.sharing import check_name
from lumina.state.reader import CheckpointReader, open_checkpoint
from lumina.state.run_directory import RunDirectory
from lumina.train.batch_search import with_measured_batch
from lumina.train.data_preparation import (
    DataPreparation,
    explained,
    rows_in_words,
)
from lumina.train.edits import with_schedule_anew
from lumina.train.experience import start_values, with_experience
from lumina.train.memory_ladder.limits import with_known_limits
from lumina.train.phased_plan import (
    check_later_phases,
    check_preservation,
    in_phase,
    with_one_schedule,
)
from lumina.train.phases import (
    Place,
    phase_config,
    place_of,
    plan_before,
    with_mode,
)
from lumina.train.processes import check_shared_storage
from lumina.train.resume import Resumption, find_resumption
from lumina.train.resume_plan import as_left
from lumina.train.rules import with_rules
from lumina.train.start_checks import Beginning, Stage, check
from lumina.train.starting_weights import StartingWeights
from lumina.train.tuning_settings import with_length, with_recipe
from lumina.train.vocabulary import with_vocabulary


class Preparation:
    """Looks at a run's past, the machine, the weights and the data, in this order.

    Attributes:
        config: the settings; a resumed run's own, with the changes asked for. Where
            the run has phases, those of the present one.
        whole: the settings of the run, whatever its phases change.
        phases: the phases of the run, if it has several.
        place: which of them this is, and where it begins.
        events: to be recorded once there is a run directory, as keyword arguments.
        resumption: the run to go on with, or None for a new one.
        start: the weights that a new run, or a phase, begins with.
        environment: the machine.
        kind: the kind of data.
        data: what is trained on.
        stream: the data as batches.
        plan: what is done.
    """

    environment: Environment
    kind: DataKind
    data: Data
    stream: RowStream
    plan: Plan

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        console: Console,
        after_phase: int | None = None,
    ) -> None:
        load_plugins(config.parts.plugins)
        self._plugins = config.parts.plugins
        self.config = config
        self.ranks = ranks
        self.console = console
        self.events: list[dict[str, Any]] = []
        self.resumption: Resumption | None = None
        self.start = StartingWeights()
        self.whole = config
        self.phases: tuple[Phase, ...] = ()
        self.place = Place()
        self._after_phase = after_phase
        self._planning = False
        self._tries = True

    @property
    def reader(self) -> CheckpointReader | None:
        """The checkpoint to start from, if there is one."""
        return None if self.resumption is None else self.resumption.reader

    @property
    def rows_per_epoch(self) -> int | None:
        """Rows of one pass over the data, where they are known."""
        return self.stream.order.rows_per_epoch if hasattr(self, "stream") else None

    def look_back(self, run: Path | None) -> None:
        """Take up the settings and the checkpoint of the run to go on with.

        Args:
            run: its directory; None for a new run.
        """
        if run is None:
            if self.config.run.auto_resume:
                self._note("there is no run to go on with yet")
            return
        self.resumption = find_resumption(self.config, run, self.events)
        self.config = self.resumption.config
        if self.resumption.reader is None:
            self._note("the run has no checkpoint yet: it starts afresh")

    def decide(
        self, planning: bool = False, machine: Environment | None = None
    ) -> None:
        """Look at machine, weights and data, and make the Plan; trains nothing.

        Args:
            planning: do without data where none is named.
            machine: plan for this one, on which nothing is tried; default: this one.
        """
        check_name(self.config)
        self.environment = capped(machine or probe(self.config), self.config)
        self._tries = machine is None
        self._planning = planning
        self._check_devices()
        if self.config.system.deterministic:
            # Read when cuBLAS makes its handles, which nothing has done yet.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        kind = self.environment.device
        self.ranks.connect("cpu" if self.config.system.device == "cpu" else kind)
        self.environment = self.ranks.share(self.environment)
        check_shared_storage(self.config, self.ranks)
        self._agree_on_checkpoint()
        if self.reader is None:
            self.start, self.config = StartingWeights.opened(self.config)
        self.kind = chosen_kind(self.config)
        self._source = DataPreparation(
            self.kind, self.ranks, self.console, self.events.append
        )
        tokenizer = self._known_tokenizer()
        self._enter_phase()
        if planning and not names_data(self.config):
            self.plan = self._with_rules(self._plan_without_data(tokenizer))
            return
        try:
            self.data = self._source.prepare(self.config, self._own_tokenizer())
        except LuminaError as error:
            if self.resumption is None:
                raise
            raise explained(error, self.resumption, self.config) from error
        self.plan = self._with_rules(self._plan())
        self.plan = with_known_limits(
            self.plan,
            self.environment,
            self.ranks,
            asked=self.config.memory_ladder,
            resumed=self.resumption.run if self.reader and self.resumption else None,
            tell=self._tell_of_memory,
        )
        self._tell_of_attention()
        moved_to = self.config.adapters.peft_base
        self.plan = self.start.put_on_base(self.plan, self.reader, moved_to)
        taken = self.start.borrow(self.plan, self.config)
        if taken is not None:
            self._note(taken, "base_model")

    def _enter_phase(self) -> None:
        """Take up the settings of the phase that the run is in, and what they change.

        A phase that begins takes the weights that the phase before has left.
        """
        self.whole = self.config
        self.phases = phases_of(self.config)
        if not self.phases:
            self.config = with_mode(self.config)
            return
        self.place = place_of(self.phases, self.reader, self._after_phase)
        self.config = phase_config(self.config, self.place.index)
        self.start.length_open = False
        turn = self.place.turn
        if turn is not None:
            assert self.resumption is not None and self.reader is not None
            self.reader.close()
            self.resumption.reader = None
            self.start = StartingWeights.left_by(turn.checkpoint)

    @property
    def begins_from_weights(self) -> bool:
        """Whether this run, or phase, begins now, with weights that were trained."""
        return self.reader is None and self.start.weights is not None

    @property
    def to_save(self) -> Config:
        """The settings with which the run is resumed: those of all of its phases."""
        parts = self.phases or self.whole.stages.training_mode
        return self.whole if parts else self.config

    @property
    def first_step(self) -> int:
        """Completed steps where the run goes on."""
        if self.place.turn is not None:
            return self.place.turn.step
        return self.reader.meta.step if self.reader else 0

    def _tell_of_attention(self) -> None:
        """The attention asked for, if it had to give way."""
        asked, got = self.config.system.attention, self.plan.attention
        if asked not in ("auto", got):
            text = f"attention {got}: {self.plan.reasons['attention']}"
            self._note(text, "attention_fallback", "warning")

    def _agree_on_checkpoint(self) -> None:
        """What rank 0 found holds: it alone may have cleared a half-written one."""
        mine = str(self.reader.path) if self.reader else None
        chosen = self.ranks.share(mine)
        if chosen != mine:
            assert self.resumption is not None
            self.resumption.reader = open_checkpoint(chosen) if chosen else None

    def _own_tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the run that goes on, if it has one."""
        if self.resumption is None:
            return None
        folder = RunDirectory(self.resumption.run).tokenizer
        return Tokenizer.from_path(folder) if folder.is_dir() else None

    @property
    def has_data(self) -> bool:
        """Whether the Plan is for data, not for a model alone."""
        return hasattr(self, "data")

    def check(self, stage: Stage, *, planning: bool = False, here: bool = True) -> None:
        """Make the checks of a stage; a run that is finished trains nothing."""
        if self.resumption is None or not self.resumption.finished:
            known = Beginning(self.config, self.ranks, planning, self)
            check(stage, known, here=here)

    def plan_to_show(self) -> Plan:
        """The Plan, with the warnings that only planning has."""
        warnings = []
        if not self.has_data:
            warnings.append("this is for a model alone: a run needs --train-data")
        if self.resumption is not None and self.resumption.finished:
            warnings.append(
                "the run is finished, and nothing asks for more: nothing is trained; "
                "name more --steps or --epochs"
            )
        return self.plan.replace(warnings=(*self.plan.warnings, *warnings))

    def _processes(self) -> int:
        """Processes that train; `--dry-run` of several is one process."""
        if self._planning and self.ranks.world_size == 1:
            return self.config.processes
        return self.ranks.world_size

    def _check_devices(self) -> None:
        """Refuse more processes on this machine than it has GPUs."""
        here = self.ranks.local_size
        if self._planning and self.ranks.world_size == 1:
            here = self.config.system.processes
        on_gpu = self.environment.device == "cuda"
        there = self.environment.device_count
        if on_gpu and self.config.system.device != "cpu" and here > there:
            raise LuminaError(
                "E003",
                f"{here} processes on this machine need a GPU each, and it has {there}",
                f"use --nproc {there}, or --device cpu",
            )

    def _known_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that was named; vocabularies go together from here on."""
        if self.resumption is not None or not self.kind.trains_tokenizer:
            return None
        path = self.config.data.tokenizer
        tokenizer = None if path is None else Tokenizer.from_path(path)
        self.config = with_vocabulary(self.config, tokenizer)
        return tokenizer

    def _plan_without_data(self, tokenizer: Tokenizer | None) -> Plan:
        """The Plan of a model alone, for `--dry-run`."""
        ranks = self._processes()
        self._decide_length(ranks)
        self._fine_tune(None, ranks)
        return make_plan(
            self.config,
            self.environment,
            tokenizer_vocab_size=tokenizer.vocab_size if tokenizer else None,
            rows_per_epoch=None,
            world_size=ranks,
        )

    def _with_rules(self, plan: Plan) -> Plan:
        """The Plan with the rules that watch the run."""
        held = self.reader.meta.plan.get("rules", ()) if self.reader else ()
        begun = plan_before(self.place, self.reader)
        return with_rules(
            with_experience(plan, self.config, self.ranks, begun, self.events.append),
            plugins=self._plugins,
            held=held,
            begun_with=self.config.parts.plugins,
        )

    def _decide_length(self, world_size: int) -> None:
        """The length of the rows, where it is left to the weights and the data."""
        self.config = with_length(
            self.config,
            self.environment,
            self.start,
            self.data if self.has_data else None,
            resumed=self.reader is not None,
            world_size=world_size,
        )

    def _fine_tune(self, rows: Rows | None, world_size: int) -> None:
        """Settings of a fine-tuning, where a new run starts from a language model."""
        if self.phases or self.config.stages.training_mode:
            return  # they recommend values of their own
        self.config = with_recipe(self.config, self.start, rows, world_size)

    def _plan(self) -> Plan:
        """The Plan, with what the data says about lengths."""
        ranks = self._processes()
        rows = self._fitted_rows(ranks)
        plan = self._decided(rows, ranks)
        self._open_stream(plan, rows)
        return self._with_its_schedule(plan, rows, ranks)

    def _fitted_rows(self, ranks: int) -> Rows:
        """Cut the data into rows of the length that is decided now.

        Args:
            ranks: processes of the run.
        """
        self._decide_length(ranks)
        self.data = self._source.fit(self.data, self.config)
        rows = self._source.rows(self.data, self.config)
        fitted = self.start.fit_puzzles(rows)
        if fitted is not None:
            self._note(fitted, "weights_taken")
        self._fine_tune(rows, ranks)
        return rows

    def _decided(self, rows: Rows, ranks: int) -> Plan:
        """The Plan for these rows: measured, begun from experience, and guarded."""

        def planned(config: Config, machine: Environment) -> Plan:
            return make_plan(
                config,
                machine,
                tokenizer_vocab_size=rows.vocab_size,
                rows_per_epoch=rows.sequence.rows_per_epoch,
                world_size=ranks,
                eval_rows=rows.held_out,
                num_puzzles=rows.num_puzzles or 1,
                done=self._done(rows),
                data_kind=self.kind.name,
            )

        if self.config.batch_search.auto_batch_size and self.reader is None:
            self.config = with_measured_batch(
                self.config,
                lambda config: planned(config, self.environment),
                self.environment,
                self._tell_of_batch,
                planning=self._planning,
            )
        self.config = start_values(
            self.config,
            lambda config: planned(config, self.environment),
            self.ranks,
            self.events.append,
            new=not (self.resumption or self.start.weights or self.phases),
            data=self.data.stats.get("train_fingerprint", ""),
        )
        plan, self.environment = guarded(
            lambda machine: planned(self.config, machine),
            self.environment,
            self.ranks,
            tries=self._tries,
        )
        return plan

    def _open_stream(self, plan: Plan, rows: Rows) -> None:
        """Open the rows in the order in which the run takes them."""
        self.stream = self.data.stream(
            self.config,
            rows,
            global_batch_size=plan.global_batch_size,
            epochs=plan.epochs,
        )
        for measure in self.data.measures.values():
            self.stream.fingerprint = measure.named(
                self.stream.fingerprint, plan.spec.seq_length
            )
        self.events += rows_in_words(self.stream, self.kind, plan.spec.seq_length)

    def _with_its_schedule(self, plan: Plan, rows: Rows, ranks: int) -> Plan:
        """The Plan of this phase or resumed run, within the schedule of the whole."""

        def draft(config: Config) -> Plan:
            return make_plan(
                config,
                self.environment,
                tokenizer_vocab_size=rows.vocab_size,
                rows_per_epoch=None,
                world_size=ranks,
                num_puzzles=rows.num_puzzles or 1,
            )

        plan = with_one_schedule(
            self.start.keep_context(plan),
            self.whole,
            self.place,
            self.data,
            rows,
            draft,
        )
        plan = in_phase(plan, self.phases, self.place)
        trained = self.start.weights is not None or self.reader is not None
        check_preservation(plan, begins_trained=trained)
        check_later_phases(self.whole, self.phases, self.place, draft)
        if self.reader is None or self.resumption is None:
            return plan
        plan = with_schedule_anew(plan, self.config, self.resumption.edits)
        changes = self.resumption.changes
        return as_left(plan, self.config, self.reader, changes, self.events)

    def _tell_of_memory(self, text: str) -> None:
        """What earlier runs found out about memory: shown, and kept for the record."""
        if self.ranks.main:
            self.console.message(text)
        self._note(text, "memory_limits")

    def _tell_of_batch(self, text: str) -> None:
        """Progress of a search for a batch: on the console, and for the record."""
        if self.ranks.main:
            self.console.message(text)
        self._note(text, "batch_size_measured")

    def _done(self, rows: Rows) -> Done | None:
        """What the checkpoint has behind it, in steps and in rows."""
        begin = self.place.begin
        if self.place.turn is not None:
            return Done(begin, 0, begin=begin)
        if self.reader is None or self.resumption is None:
            return None
        meta = self.reader.meta
        # A Plan of an earlier version says only the batch it was made for.
        batch = meta.plan.get("schedule_batch") or meta.plan["global_batch_size"]
        if "warmup_steps" in self.resumption.changes:
            batch = None
        rows_done = rows.sequence.rows_before(meta.cursor)
        return Done(meta.step, rows_done, batch, begin)

    def _note(
        self, message: str, kind: str = "fresh_start", severity: str = "info"
    ) -> None:
        """The events to be recorded once there is a run directory."""
        self.events.append(
            {"kind": kind, "severity": severity, "code": None, "message": message}
        )
