"""Runs cells one after another or side by side, and writes each as it ends."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.features.measured import ABSENT, VERIFIED
from lumina.plan.environment import Environment
from lumina.state.json_lines import JsonLinesFile
from lumina.train.matrix.bases import bases_in, through_few_bits
from lumina.train.matrix.cell import Cell, shape_of, trial_of, tried_features
from lumina.train.matrix.covering import Together, covering
from lumina.train.matrix.holding import held
from lumina.train.matrix.judge import REFUSED, Verdict, judge, judged
from lumina.train.matrix.planning import idle_in
from lumina.train.matrix.process import Trained, train
from lumina.train.matrix.record import described, key_of, read_rows, row_of
from lumina.train.matrix.setting import RUN, placed, write_files

RESULTS = "results.jsonl"

Row = dict[str, Any]


@dataclass
class Matrix:
    """The cells of one folder on one machine.

    Attributes:
        folder: results and the work behind them.
        machine: where they run.
        versions: of what computes.
        timeout: seconds of one run.
        threads: of one process.
        tell: takes a finished row, how many are done, and how many there are.
        again: finished cells run again, and their new rows replace the old ones.
        until: moment of `time.monotonic` after which no cell begins.
        asked_to_stop: whether no further cell is to begin.
        tokenizers: folder of the vocabularies of others that cells name, if there is.
    """

    folder: Path
    machine: Environment
    versions: Mapping[str, str]
    timeout: float = 300.0
    threads: int = 1
    tell: Callable[[Row, int, int], None] = lambda row, done, count: None
    again: bool = False
    until: float = float("inf")
    asked_to_stop: Callable[[], bool] = lambda: False
    tokenizers: Path | None = None
    _broken_off: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.described = described(self.machine, self.versions)
        self.places = write_files(self.folder / "files")
        self.rows = {row["key"]: row for row in read_rows([self.folder / RESULTS])}
        self.addresses = sorted(
            {a for n in tried_features() for a in trial_of(n).calls}
        )
        self._file = JsonLinesFile(self.folder / RESULTS)
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._trained: set[str] = set()
        self._done = 0

    def run(self, cells: Sequence[Cell], jobs: int = 1) -> list[Row]:
        """Run those that are not there yet; returns the rows of all that are.

        Args:
            cells: what to try.
            jobs: how many at a time.

        Raises:
            LuminaError: E002 while another process works in the folder.
        """
        with held(self.folder):
            return self._run(cells, jobs)

    def _run(self, cells: Sequence[Cell], jobs: int) -> list[Row]:
        self._done = 0
        found: dict[str, Row] = {}

        def one(cell: Cell) -> None:
            key = key_of(cell, self.described)
            before = self.rows.get(key)
            # What was absent costs nothing to look for again.
            if self.again or before is None or before["status"] == ABSENT:
                if self.asked_to_stop() or time.monotonic() > self.until:
                    return
                row = self._tried(cell)
                if self._broken_off.is_set():  # its processes were ended, not its cell
                    return
                with self._lock:
                    self.rows[key] = row
                    if before is None or _said(row) != _said(before):
                        self._file.append(row)
            with self._lock:
                self._done += 1
                found[key] = self.rows[key]
                self.tell(self.rows[key], self._done, len(cells))

        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(one, cell) for cell in cells]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._broken_off.set()
                raise
        keys = [key_of(cell, self.described) for cell in cells]
        return [found[key] for key in keys if key in found]

    def _tried(self, cell: Cell) -> Row:
        began = time.monotonic()
        verdict = self._verdict(cell)
        # A row is for others as well: it holds no path of this machine.
        verdict = replace(verdict, why=verdict.why.replace(str(self.folder), "FOLDER"))
        return row_of(cell, verdict, self.described, time.monotonic() - began)

    def _verdict(self, cell: Cell) -> Verdict:
        absent = missing_here(cell, self.machine) or self._missing_file(cell)
        if absent:
            return Verdict(ABSENT, absent)
        refused = refusal(cell)
        if refused is not None:
            return Verdict(REFUSED, refused.message, refused.code)
        if not cell.name and (why := idle_in(cell, self.machine)):
            return Verdict(ABSENT, why)
        folder = self.folder / "work" / key_of(cell, self.described)
        run = self._train(cell.leaves, folder, cell.ranks)
        try:
            return judged(run) or self._compared(cell, run)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _compared(self, cell: Cell, run: Trained) -> Verdict:
        """A run beside its reference, and beside those that lack one feature each."""
        reference = self._reference(cell)
        without = {
            name: self._reference(cell.without(name))
            for name in cell.features
            if not trial_of(name).keeps and self._cheap(cell)
        }
        return judge(cell, run, reference, without)

    def _missing_file(self, cell: Cell) -> str | None:
        """The vocabulary that a cell reads and that is not there, or None."""
        mark = "{tokenizers}/"
        names = [str(one).removeprefix(mark) for one in cell.leaves.values()
                 if str(one).startswith(mark)]  # fmt: skip
        for name in names:
            if self.tokenizers is None or not (self.tokenizers / name).exists():
                return f"needs {name} in the folder of --tokenizers"
        return None

    @staticmethod
    def _cheap(cell: Cell) -> bool:
        """Whether few references are needed to leave out each feature in turn."""
        return len(cell.features) <= 2

    def _reference(self, cell: Cell) -> Trained:
        """The reference of a cell, trained once for all cells that need the same."""
        trained = self._once("references", cell.reference, cell.reference_ranks)
        shutil.rmtree(trained.folder / "run", ignore_errors=True)
        return trained

    def _base(self, leaves: Mapping[str, Any]) -> Trained:
        """A trained model of the same shape, for what changes one."""
        asked = {**RUN, **shape_of(dict(leaves)), "seed": 2}
        if leaves["tokenizer_vocab_size"] is None:  # the data gives the vocabulary
            told = ("train_data", "tokenizer_vocab_size", "eval_fraction")
            asked |= {leaf: leaves[leaf] for leaf in told if leaf in leaves}
        return self._once("bases", asked)

    def _in_few_bits(self, base: Trained, codec: str) -> str:
        """The run of a base whose matrices went through a codec; "" without one."""
        if not codec:
            return ""
        folder = base.folder / f"run-in-{codec}"
        with self._lock:
            return str(through_few_bits(Path(base.found["run"]), codec, folder))

    def _once(self, kind: str, leaves: Mapping[str, Any], ranks: int = 1) -> Trained:
        """A run that is trained once for all that need it."""
        asked: dict[str, Any] = {"run": leaves, "machine": self.described}
        if ranks > 1:
            asked["ranks"] = ranks
        text = json.dumps(asked, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder = self.folder / kind / name
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            found = folder / "found.json"
            if found.exists() and (name in self._trained or not self.again):
                there = Trained(json.loads(found.read_text()), folder)
                if there.error is None or name in self._trained:
                    return there
            self._trained.add(name)
            return self._train(leaves, folder, ranks)

    def _train(self, leaves: Mapping[str, Any], folder: Path, ranks: int) -> Trained:
        places = dict(self.places)
        if self.tokenizers is not None:
            places["tokenizers"] = str(self.tokenizers.resolve())
        places["folder"] = str(folder)
        for place, codec in bases_in(leaves).items():
            base = self._base(leaves)
            if base.error is not None:
                return base
            places[place] = self._in_few_bits(base, codec) or base.found["run"]
        options = {name: placed(value, places) for name, value in leaves.items()}
        options["device"] = self.machine.device
        return train(
            options,
            folder,
            addresses=self.addresses,
            ranks=ranks,
            threads=self.threads,
            timeout=self.timeout,
            broken_off=self._broken_off.is_set,
        )


def current_rows(rows: Iterable[Row], machine: Mapping[str, Any]) -> list[Row]:
    """Those without a name that a machine would write again if it ran them now.

    Args:
        rows: of a folder, with their keys.
        machine: as `described`.
    """
    return [
        row
        for row in rows
        if not row["named"] and row["status"] != ABSENT
        and FEATURES.keys() >= set(row["features"])
        and row["key"] == key_of(Cell(tuple(row["features"])), machine)
    ]  # fmt: skip


def _said(row: Row) -> Row:
    """What a row says of its cell, without when it was found."""
    return {k: v for k, v in row.items() if k not in ("date", "seconds")}


def missing_here(cell: Cell, machine: Environment) -> str | None:
    """What a cell needs and a machine has not, or None."""
    if cell.needs:
        return f"needs {cell.needs}"
    kind = machine.device
    if cell.devices and kind not in cell.devices:
        wanted = " or ".join(sorted(cell.devices))
        return f"needs {wanted}; this machine has {kind}"
    for name in cell.features:
        problem = FEATURES[name].needs(machine)
        if problem:
            return f"{name} {problem}"
        absent = trial_of(name).absent
        if absent is not None and (problem := absent(machine)):
            return f"{name} {problem}"
    if kind == "cuda" and cell.ranks > machine.device_count:
        return f"needs {cell.ranks} GPUs; there are {machine.device_count}"
    return None


def refusal(cell: Cell) -> LuminaError | None:
    """Why the configuration refuses a cell, before anything is read or built."""
    leaves = {name: value for name, value in cell.leaves.items() if value is not None}
    try:
        Config(**leaves)
    except LuminaError as error:
        return error
    return None


def narrower(
    rows: Sequence[Row],
    allowed: Callable[[Together], bool] = lambda features: True,
    planned: Callable[[Together], bool] = lambda features: True,
) -> list[Cell]:
    """Rows half as wide in place of those that are not verified, down to pairs.

    They hold every pair that no verified row has, so that in the end a pair that is
    not verified has a row of its own.

    Args:
        rows: all that there are; what they hold already is not tried again.
        allowed: whether the configuration takes features together.
        planned: whether this machine's plan does.
    """
    good = {
        pair
        for row in rows
        if row["status"] == VERIFIED
        for pair in combinations(row["features"], 2)
    }
    there = {tuple(row["features"]) for row in rows if not row["named"]}
    found: dict[tuple[str, ...], None] = {}
    for row in rows:
        if row["status"] in (VERIFIED, ABSENT) or len(row["features"]) <= 2:
            continue
        names = row["features"]
        done = good | {one for half in found for one in combinations(half, 2)} | there
        halves, refused = covering(
            names,
            allowed,
            strength=2,
            width=max(2, len(names) // 2),
            done=done,
            accepted=planned,
        )
        for half in [*halves, *refused]:
            if half not in there and not good.issuperset(combinations(half, 2)):
                found[half] = None
    return [Cell(names) for names in found]
