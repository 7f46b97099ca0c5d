"""Seconds to a held-out loss: Lumina's own recipe and the transformers Trainer.

One model of GPT-2 small's size (124M parameters, one function: the Trainer trains a
LlamaForCausalLM of the same shape), one tokenizer, and for a seed the same packed rows
in the same order, read from a file by the Trainer and from its token store by Lumina.
Both evaluate the same held-out rows at the same steps, and neither saves a checkpoint.
Tokenizing is done beforehand for both; the first weights are each side's own.

Every contender is a process of its own. What is timed is seen from outside: when its
first step and when each evaluation is written. "Whole" counts from the command, "steps"
from the first step, which leaves out loading and most of compiling. The loss that is
compared is the one that was named (`--target`), or the lowest that all runs reach,
which is known only afterwards; the curves are in the file.

    python benchmarks/to_a_loss.py --data books.tar.xz --work work --out to_a_loss.json

A run that is there already is not repeated, so an interrupted measurement goes on. With
several GPUs the contenders of a seed run side by side, one on each, in rotation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": dict(
        hidden=768, layers=12, heads=12, ffn=2048, vocab=50257, length=1024, rows=32,
        steps=350, every=25, rate=1.5e-3, fraction=0.02, device="cuda",
    ),
    "tiny": dict(
        hidden=32, layers=1, heads=2, ffn=64, vocab=300, length=32, rows=4, steps=6,
        every=2, rate=3e-3, fraction=0.2, device="cpu",
    ),
}  # fmt: skip
"""Shapes and lengths; `rows` of a step, an evaluation `every` so many steps."""

EVALUATED = 2
"""An evaluation reads so many steps' worth of held-out rows."""

LUMINA = {
    "lumina": "--optimizer muon --lr-scheduler wsd --decay-ratio 0.5",
    "lumina-adamw": "--optimizer adamw --lr-scheduler cosine",
}
TRAINER = {"trainer-compile": True, "trainer": False}
"""Contender -> whether the transformers Trainer compiles the model."""

CONTENDERS = [*LUMINA, *TRAINER]


def common(size: dict[str, Any], data: Path, seed: int) -> list[str]:
    """Options of `lumina train` that decide model and rows."""
    words = (
        f"--preset debug --no-use-moe --tie-embeddings --hidden-size {size['hidden']} "
        f"--num-layers {size['layers']} --num-heads {size['heads']} "
        f"--num-kv-heads {size['heads']} --intermediate-size {size['ffn']} "
        f"--head-dim {size['hidden'] // size['heads']} "
        f"--seq-length {size['length']} --tokenizer-vocab-size {size['vocab']} "
        f"--vocab-size {size['vocab']} "
        f"--batch-size {size['rows']} --global-batch-size {size['rows']} "
        f"--steps {size['steps']} --eval-every-n-batches {size['every']} "
        f"--eval-batches {EVALUATED} --eval-fraction {size['fraction']} "
        f"--learning-rate {size['rate']} --min-lr 0 --warmup-ratio 0.1 "
        f"--weight-decay 0.1 --report-samples 0 --save-every-n-batches 0 "
        f"--no-track-best-model "
        f"--device {size['device']} --seed {seed}"
    )
    return [*words.split(), "--train-data", str(data)]


def write_rows(size: dict[str, Any], data: Path, seed: int, folder: Path) -> None:
    """The rows of all steps and the held-out rows of a seed, as Lumina packs them."""
    import numpy as np

    from lumina.assemble.bare_network import build
    from lumina.assemble.ranks import Ranks
    from lumina.cli.options import add_config_options, config_from_args
    from lumina.data.kind import Share
    from lumina.observe.console import Console
    from lumina.train.preparation import Preparation

    parser = argparse.ArgumentParser()
    add_config_options(parser)
    config = config_from_args(parser.parse_args(common(size, data, seed)))
    prepared = Preparation(config.settled(), Ranks(), Console())
    prepared.decide()
    spec, store = prepared.plan.spec, prepared.data.prepared.eval  # type: ignore[attr-defined]
    share = Share(
        seq_length=size["length"],
        batch_size=size["rows"],
        limit=EVALUATED,
        rank=0,
        data_ranks=1,
    )
    parts: dict[str, list[Any]] = {"ids": [], "labels": []}
    cursor = dict(prepared.stream.start)
    for _ in range(size["steps"]):
        step = prepared.stream.step(cursor, micro_batch_size=size["rows"])
        assert step is not None
        cursor = dict(step.cursor)
        parts["ids"].append(step.micro_batches[0].input_ids.numpy().astype(np.int32))
        parts["labels"].append(step.micro_batches[0].labels.numpy().astype(np.int32))
    held = list(prepared.data.held_out(share))
    parts["held_ids"] = [one.input_ids.numpy().astype(np.int32) for one in held]
    parts["held_labels"] = [one.labels.numpy().astype(np.int32) for one in held]
    for name, rows in parts.items():
        np.save(folder / f"{seed}-{name}.npy", np.concatenate(rows))
    network = build(prepared.plan)
    facts = {
        # Filled up by 47 rows, which makes products faster on both sides.
        "vocab": spec.padded_vocab_size,
        "rope_theta": spec.rope_theta,
        "norm_eps": spec.norm_eps,
        "init_std": spec.init_std,
        "parameters": sum(p.numel() for p in network.parameters()),
        "bits_per_byte_of_a_nat": store.bits_per_byte(1.0),
        "held_out_rows": sum(len(rows) for rows in parts["held_ids"]),
    }
    (folder / f"{seed}.json").write_text(json.dumps(facts))


def shape_of(size: dict[str, Any], facts: dict[str, Any]) -> Any:
    """Lumina's model as a configuration of transformers."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=facts["vocab"],
        hidden_size=size["hidden"],
        intermediate_size=size["ffn"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["heads"],
        head_dim=size["hidden"] // size["heads"],
        max_position_embeddings=size["length"],
        rope_parameters={"rope_type": "default", "rope_theta": facts["rope_theta"]},
        rms_norm_eps=facts["norm_eps"],
        initializer_range=facts["init_std"],
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )


class Rows:
    """Rows of a file, as the Trainer takes them: labels are already shifted.

    Args:
        ids: the file of their tokens.
        labels: the file of their labels.
    """

    def __init__(self, ids: Path, labels: Path) -> None:
        import numpy as np

        self._ids, self._labels = np.load(ids, mmap_mode="r"), np.load(labels)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`; the model takes its loss from `shift_labels`."""
        import torch

        labels = torch.from_numpy(self._labels[index]).long()
        ids = torch.from_numpy(self._ids[index].copy()).long()
        return {"input_ids": ids, "labels": labels, "shift_labels": labels}


def train_with_trainer(
    size: dict[str, Any], rows: Path, seed: int, compile_it: bool, out: Path
) -> None:
    """The other side: writes a line after the first step and after each evaluation."""
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import (
        LlamaForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    facts = json.loads((rows / f"{seed}.json").read_text())
    set_seed(seed)
    model = LlamaForCausalLM(shape_of(size, facts))
    own = sum(p.numel() for p in model.parameters())
    if own != facts["parameters"]:
        raise SystemExit(f"{own} parameters, and Lumina has {facts['parameters']}")
    on_gpu = size["device"] == "cuda"

    class Told(TrainerCallback):
        """Writes what is timed."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            if state.global_step == 1:
                self.write({"step": 1})

        def on_evaluate(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            loss = kw["metrics"]["eval_loss"]
            self.write({"step": state.global_step, "eval_loss": loss})

        def write(self, row: dict[str, Any]) -> None:
            with open(out, "a") as file:
                file.write(json.dumps(row) + "\n")

    class InOrder(Trainer):
        """Takes the rows as they stand: they are shuffled already."""

        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    InOrder(
        model=model,
        args=TrainingArguments(
            output_dir=str(out.with_suffix("")),
            per_device_train_batch_size=size["rows"],
            per_device_eval_batch_size=size["rows"],
            max_steps=size["steps"],
            eval_strategy="steps",
            eval_steps=size["every"],
            logging_steps=size["every"],
            learning_rate=size["rate"],
            lr_scheduler_type="cosine",
            warmup_steps=max(1, size["steps"] // 10),
            weight_decay=0.1,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            optim="adamw_torch_fused" if on_gpu else "adamw_torch",
            bf16=on_gpu,
            tf32=True if on_gpu else None,
            use_cpu=not on_gpu,
            torch_compile=compile_it and on_gpu,
            dataloader_num_workers=2 if on_gpu else 0,
            dataloader_pin_memory=on_gpu,
            prediction_loss_only=True,
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=Rows(rows / f"{seed}-ids.npy", rows / f"{seed}-labels.npy"),  # type: ignore[arg-type]
        eval_dataset=Rows(  # type: ignore[arg-type]
            rows / f"{seed}-held_ids.npy", rows / f"{seed}-held_labels.npy"
        ),
        callbacks=[Told()],
    ).train()
    if on_gpu:
        torch.cuda.synchronize()


class Runs:
    """Runs of the contenders, each at most once.

    Args:
        size: name of the shape.
        data: the texts.
        work: where everything is kept.
        target: a run ends when its held-out loss is as low; None: after its steps.
        most: seconds after which a run is ended.
    """

    def __init__(
        self, size: str, data: Path, work: Path, target: float | None, most: float
    ) -> None:
        self.name, self.size = size, SIZES[size]
        self.data, self.work = data.resolve(), work.resolve()
        self.target, self.most = target, most
        self.rows = self.work / "rows"
        self.rows.mkdir(parents=True, exist_ok=True)

    def environment(self, gpu: int | None = None) -> dict[str, str]:
        """Of the processes: caches of this measurement's own."""
        path = [str(SOURCE), os.environ.get("PYTHONPATH", "")]
        found = os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "LUMINA_CACHE": str(self.work / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
            "TRITON_CACHE_DIR": str(self.work / "triton"),
            "TOKENIZERS_PARALLELISM": "true",
        }
        return found if gpu is None else found | {"CUDA_VISIBLE_DEVICES": str(gpu)}

    def again(self, *words: str) -> list[str]:
        """This file as a command of its own."""
        return [
            *(sys.executable, str(Path(__file__).resolve()), "--size", self.name),
            *("--data", str(self.data), "--work", str(self.work), *words),
        ]

    def prepare(self, seeds: list[int]) -> None:
        """Tokenizer, tokens and rows; nothing of this is timed."""
        for seed in seeds:
            if (self.rows / f"{seed}.json").exists():
                continue
            words = ["--write-rows", str(seed)]
            done = subprocess.run(
                self.again(*words), env=self.environment(), check=False
            )
            if done.returncode:
                raise SystemExit(f"the rows of seed {seed} could not be written")

    def one(self, contender: str, seed: int, gpu: int | None) -> dict[str, Any]:
        """The result of a run, which is made where it is not there."""
        result = self.work / f"{contender}-{seed}.json"
        if not result.exists():
            found = self.watched(contender, seed, gpu)
            result.write_text(json.dumps(found))
            print(
                f"{contender} {seed}: first step after {found['first_step']:.1f} s, "
                f"loss {found['curve'][-1][1]:.4f} after {found['curve'][-1][0]:.1f} s",
                flush=True,
            )
        return dict(json.loads(result.read_text()))

    def watched(self, contender: str, seed: int, gpu: int | None) -> dict[str, Any]:
        """Start a run, and note when what becomes of it is written."""
        folder = self.work / f"run-{contender}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        if contender in LUMINA:
            command = [sys.executable, "-m", "lumina", "train"]
            command += common(self.size, self.data, seed)
            command += [*LUMINA[contender].split(), "--run-dir", str(folder)]
            lines = folder / "metrics.jsonl"
        else:
            folder.mkdir()
            lines = folder / "lines.jsonl"
            command = self.again("--train", contender, str(seed), str(lines))
        log = self.work / f"log-{contender}-{seed}"
        first, curve = 0.0, list[tuple[float, float, int]]()
        began = time.perf_counter()
        with open(log, "w") as output:
            process = subprocess.Popen(
                command,
                env=self.environment(gpu),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                read, ended = 0, False
                while not ended:
                    ended = process.poll() is not None  # before what it wrote is read
                    now = time.perf_counter() - began
                    rows = complete_rows(lines)
                    for row in rows[read:]:
                        first = first or now
                        if "eval_loss" in row:
                            curve.append((now, row["eval_loss"], row["step"]))
                    read = len(rows)
                    low = curve[-1][1] if curve else math.inf
                    if self.target is not None and low <= self.target:
                        break
                    if now > self.most or len(curve) == self.evaluations:
                        break
                    time.sleep(0.01)
            finally:
                process.kill()
                process.wait()
        if not curve:
            raise SystemExit(f"{log.name}: {log.read_text()[-2000:]}")
        return {"first_step": first, "curve": curve, "gpu": gpu}

    @property
    def evaluations(self) -> int:
        """How many a run has; the last step has one."""
        return -(-int(self.size["steps"]) // int(self.size["every"]))


def complete_rows(file: Path) -> list[dict[str, Any]]:
    """The lines that are written to their end."""
    if not file.is_file():
        return []
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def seconds_to(run: dict[str, Any], loss: float) -> tuple[float, float] | None:
    """Seconds to the first evaluation as low: from the command, and the first step."""
    for seconds, found, _ in run["curve"]:
        if found <= loss:
            return seconds, seconds - run["first_step"]
    return None


def compared(
    runs: dict[str, dict[int, dict[str, Any]]], target: float | None
) -> dict[str, Any]:
    """Seconds of each contender to one loss, and how much longer others take.

    Args:
        runs: contender -> seed -> its run; only seeds that all of them have count.
        target: the loss; None: the lowest that all runs reach.
    """
    seeds = sorted(set.intersection(*(set(found) for found in runs.values())))
    every = [runs[name][seed] for name in runs for seed in seeds]
    if not every:
        return {}
    lowest = [min(loss for _, loss, _ in run["curve"]) for run in every]
    loss = max(lowest) if target is None else target
    table: dict[str, Any] = {}
    for name, found in runs.items():
        times = [seconds_to(found[seed], loss) for seed in seeds]
        table[name] = {
            "first_step": [found[seed]["first_step"] for seed in seeds],
            "whole": [one and one[0] for one in times],
            "steps": [one and one[1] for one in times],
        }
    own = next(iter(runs))
    for name in list(runs)[1:]:
        for kind in ("whole", "steps"):
            pairs = zip(table[name][kind], table[own][kind], strict=True)
            ratios = [a / b for a, b in pairs if a is not None and b is not None]
            if len(ratios) == len(seeds):
                table[name][f"{kind}_over_{own}"] = ratios
                table[name][f"{kind}_median"] = statistics.median(ratios)
    return {"loss": loss, "named_beforehand": target is not None, "seeds": seeds,
            "contenders": table}  # fmt: skip


def main() -> None:
    """Measure what is missing and there is time for, compare, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="text to train on")
    parser.add_argument("--work", type=Path, default=Path("to_a_loss"))
    parser.add_argument("--out", type=Path, default=Path("to_a_loss.json"))
    parser.add_argument("--size", default="gpt2", choices=list(SIZES))
    parser.add_argument(
        "--contenders", nargs="+", default=["lumina", "trainer-compile"],
        choices=CONTENDERS,
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--target", type=float, help="nats a token")
    parser.add_argument("--gpus", type=int, default=1, help="contenders side by side")
    parser.add_argument("--within", type=float, default=math.inf, help="seconds")
    parser.add_argument("--most", type=float, default=300.0, help="seconds of a run")
    parser.add_argument("--write-rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    began = time.monotonic()
    runs = Runs(
        arguments.size,
        arguments.data,
        arguments.work,
        arguments.target,
        arguments.most,
    )
    if arguments.write_rows is not None:
        write_rows(runs.size, runs.data, arguments.write_rows, runs.rows)
        return
    if arguments.train:
        name, seed, out = arguments.train
        train_with_trainer(runs.size, runs.rows, int(seed), TRAINER[name], Path(out))
        return
    found: dict[str, dict[int, dict[str, Any]]] = {
        name: {} for name in arguments.contenders
    }
    longest = 0.0
    for turn, seed in enumerate(arguments.seeds):
        here = time.monotonic()
        if here - began + longest > arguments.within:
            print(f"no time for seed {seed}: the same command goes on with it")
            break
        runs.prepare([seed])
        names = arguments.contenders[turn % 2 :] + arguments.contenders[: turn % 2]
        count = arguments.gpus if runs.size["device"] == "cuda" else 1
        for at in range(0, len(names), count):
            side_by_side = names[at : at + count]
            with ThreadPoolExecutor(count) as pool:
                given = [seed] * len(side_by_side)
                gpus = list(range(count)) if count > 1 else [None]
                made = list(pool.map(runs.one, side_by_side, given, gpus))
            for name, one in zip(side_by_side, made, strict=True):
                found[name][seed] = one
        longest = max(longest, time.monotonic() - here)
    import torch

    rows = [json.loads(p.read_text()) for p in sorted(runs.rows.glob("*.json"))]
    facts = {
        "benchmark": "to_a_loss",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "size": runs.size,
        "recipes": LUMINA,
        "facts": rows[:1],
        "compared": compared(found, arguments.target),
        "runs": found,
    }
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts["compared"], indent=1))


if __name__ == "__main__":
    main()
