"""Do two versions of Lumina compute the same, to the bit?

Trains every case of `CASES` for 20 steps on the CPU, in one process and in two, with
the command itself, and keeps each row of metrics.jsonl and a digest of each tensor of
the last checkpoint. What differs between two versions is told case by case.

    python tools/same_results.py record OUT.json [--source CHECKOUT] [--only CASE ...]
    python tools/same_results.py compare BEFORE.json AFTER.json [--known KNOWN.json]
    python tools/same_results.py between COMMIT COMMIT [--known KNOWN.json]

`record` keeps what it has in OUT.json and goes on there when it is called again. KNOWN
lists keys that were renamed, removed, added or corrected on purpose, each with its
reason: {"rows": {"old": {"new": "name or null", "why": "..."}}, "tensors": {...}}; keys
may hold * and ?, and "cases" limits an entry to the cases that match it. `between`
makes a checkout of each commit, and uses this Python's packages for both.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STEPS = 20
RANKS = (1, 2)
TIMES = (
    "time", "step_seconds", "data_wait_seconds", "tokens_per_second", "mfu",
    "memory_*", "agreed_*", "*_seconds", "*_per_second", "hfu", "epoch_time",
    "oom_risk_score", "cpu_utilization", "host_memory_utilization", "disk_*", "gpu_*",
    "*_time", "*_memory",
)  # fmt: skip
"""Keys of a row that no two runs have alike."""

COMMON: dict[str, Any] = {
    "tokenizer_vocab_size": 270,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_layers": 3,
    "num_heads": 2,
    "num_kv_heads": 1,
    "seq_length": 32,
    "init_std": 0.1,
    "global_batch_size": 4,
    "batch_size": 2,
    "steps": STEPS,
    "warmup_steps": 3,
    "learning_rate": 0.003,
    "save_every_n_batches": 0,
    "eval_every_n_batches": 10,
    "eval_batches": 2,
    "log_every_n_batches": STEPS,
    "report_samples": 0,
    "precision": "fp32",
    "device": "cpu",
    "deterministic": True,
    "num_workers": 1,
    "seed": 1,
    "train_data": ["data/text.txt"],
}
MOE = {
    "use_moe": True,
    "num_experts": 4,
    "moe_top_k": 2,
    "moe_intermediate_size": 16,
    "auto_adjust_lr": False,
}
MOD = {"use_mod": True, "mod_capacity_factor": 0.5, "mod_pattern": "all"}
MOR = {"use_mor": True, "mor_recursions": 3, "num_layers": 4}
HRM = {
    "use_hrm": True,
    "num_kv_heads": 2,
    "h_layers": 1,
    "l_layers": 1,
    "expansion": 2.0,
    "halt_max_steps": 3,
}
TEXT_HRM = HRM | {"hrm_mode": "language_model"}
PUZZLES = HRM | {
    "train_data": ["data/puzzles.txt"],
    "tokenizer_vocab_size": None,
    "seq_length": 81,
    "eval_fraction": 0.2,
    "tie_embeddings": False,
}
TASKS = {
    "train_data": [],
    "tasks": ["words=data/text.txt", "numbers=data/numbers.txt"],
    "tie_embeddings": False,
}
CHAT = {"train_data": ["data/chat.jsonl"], "seq_length": 64}

CASES: dict[str, dict[str, Any]] = {
    "dense": {},
    "window": {"window_size": 5},
    "latent attention": {
        "num_kv_heads": None,
        "mla_kv_rank": 12,
        "mla_rope_dim": 4,
        "mla_value_dim": 6,
    },
    "experts": MOE,
    "experts, sigmoid and shared": MOE
    | {"moe_score": "sigmoid", "moe_score_scale": 1.5, "moe_shared_experts": 1},
    "experts, groups and bias": MOE
    | {
        "moe_groups": 2,
        "moe_top_groups": 1,
        "moe_bias_update_rate": 0.01,
        "moe_normalise_top_k": False,
    },
    "experts, capacity": MOE | {"moe_dispatch": "capacity", "capacity_factor": 0.6},
    "experts, adaptive capacity": MOE
    | {"moe_dispatch": "capacity", "overflow": "adaptive"},
    "experts, noise and dropout": MOE
    | {"router_jitter_noise": 0.1, "expert_dropout": 0.2, "routing_temperature": 1.5},
    "experts in every other block": MOE | {"moe_pattern": "interleaved"},
    "depth of blocks": MOD,
    "depth of feed-forwards": MOD | {"mod_scope": "feedforward"},
    "depth by position": MOD | {"mod_routing_strategy": "fixed"},
    "depth, static": MOD | {"mod_mode": "static"},
    "depth on a schedule": MOD
    | {
        "mod_capacity_ladder": [0.25, 0.5, 1.0],
        "mod_capacity_schedule": [1.0, 0.5],
    },
    "depth in a window": MOD | {"window_size": 5},
    "experts and depth": MOE | MOD,
    "recursion": MOR,
    "recursion by token": MOR | {"mor_routing": "token_choice"},
    "recursion, shared keys": MOR | {"mor_kv_sharing": True},
    "recursion and experts": MOR | MOE,
    "reasoner of text": TEXT_HRM,
    "reasoner of text, one module": TEXT_HRM | {"hrm_variant": "trm"},
    "reasoner of puzzles": PUZZLES,
    "reasoner of puzzles, one module": PUZZLES | {"hrm_variant": "trm"},
    "reasoner of puzzles, grids": PUZZLES
    | {
        "train_data": ["data/grids.json"],
        "puzzle": "arc",
        "puzzle_augmentations": 3,
        "puzzle_votes": 2,
        "seq_length": 900,
        "eval_batches": 1,
    },
    "several tasks": TASKS,
    "several tasks in turns": TASKS | {"task_sampling_strategy": "round_robin"},
    "several tasks, balanced": TASKS
    | {"task_weights": [0.6, 0.4], "task_balancing": "dwa"},
    "conversations": CHAT,
    "conversations, loss on all": CHAT | {"loss_on": "all"},
    "long conversations": CHAT | {"seq_length": 24},
    "long conversations, cut": CHAT | {"seq_length": 24, "long_conversations": "cut"},
    "adam-atan2": {"optimizer": "adam_atan2"},
    "adam-atan2 and experts": MOE | {"optimizer": "adam_atan2"},
    "average, dropout, wsd": {"ema_decay": 0.9, "dropout": 0.1, "lr_scheduler": "wsd"},
    "frozen embedding": {"freeze": ["backbone.embedding.*"], "tie_embeddings": False},
    "bf16": {"precision": "bf16"},
    "bf16 and experts": MOE | {"precision": "bf16"},
    "full checkpointing": {"gradient_checkpointing": "full"},
    "selective checkpointing": MOE | {"gradient_checkpointing": "selective"},
    "learned positions": {"pos_encodings": "learned", "use_stable_embedding": True},
    "scaled rotary": {
        "rope_scaling": "yarn",
        "rope_factor": 2.0,
        "rope_original_length": 16,
        "qk_norm": "rms",
    },
    "sharded": {"parallel": "fsdp2"},
    "sharded experts": MOE | {"parallel": "fsdp2", "ema_decay": 0.9},
}
"""Name -> options of `lumina train` beside `COMMON`."""

SOLVED = (
    "483921657967345821251876493548132976729564138136798245372689514814253769695417382"
)


def write_data(folder: Path) -> None:
    """Small files of every kind of data, the same at every call."""
    draw = random.Random(0)
    animals, places = ("cat", "dog", "owl", "fox"), ("barn", "hill", "lake", "wood")

    def sentence() -> str:
        return (
            f"The {draw.choice(animals)} went to the {draw.choice(places)} "
            f"on day {draw.randrange(400)} and slept."
        )

    def conversation() -> dict[str, Any]:
        return {
            "messages": [
                {"role": "user", "content": f"Where is the {draw.choice(animals)}?"},
                {"role": "assistant", "content": sentence()},
            ]
        }

    folder.mkdir()
    end = "<|endoftext|>"
    texts = [
        " ".join(sentence() for _ in range(draw.randrange(1, 5))) for _ in range(200)
    ]
    (folder / "text.txt").write_text(end.join(texts))
    numbers = [
        " ".join(str(n + i) for i in range(draw.randrange(3, 20))) for n in range(150)
    ]
    (folder / "numbers.txt").write_text(end.join(numbers))
    chats = [json.dumps(conversation()) for _ in range(120)]
    (folder / "chat.jsonl").write_text("\n".join(chats) + "\n")
    puzzles = []
    for _ in range(40):
        digits = draw.sample("123456789", 9)
        solution = "".join(digits[int(c) - 1] for c in SOLVED)
        blanks = set(draw.sample(range(81), draw.randrange(5, 40)))
        asked = "".join("." if i in blanks else c for i, c in enumerate(solution))
        puzzles.append(f"{asked},{solution}")
    (folder / "puzzles.txt").write_text("\n".join(puzzles))

    def pair() -> dict[str, Any]:
        rows, columns = draw.randrange(2, 6), draw.randrange(2, 6)
        grid = [[draw.randrange(6) for _ in range(columns)] for _ in range(rows)]
        return {"input": grid, "output": [row[::-1] for row in grid]}

    tasks = {
        f"{n:08x}": {"train": [pair() for _ in range(3)], "test": [pair()]}
        for n in range(8)
    }
    (folder / "grids.json").write_text(json.dumps(tasks))


def measure(name: str, ranks: int, source: Path) -> dict[str, Any]:
    """Train one case with the `src` of a checkout: its rows and tensors' digests."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(folder / "data")
        leaves = {"run_dir": "run"} | COMMON | CASES[name]
        # JSON is YAML.
        (folder / "case.yaml").write_text(json.dumps(leaves))
        command = [sys.executable, "-m", "lumina", "train", "--config", "case.yaml"]
        if ranks > 1:
            command += ["--nproc", str(ranks)]
        path = [str(source.resolve() / "src")]
        path += filter(None, [os.environ.get("PYTHONPATH")])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "LUMINA_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            return {"error": (done.stdout + done.stderr)[-2000:]}
        rows = (folder / "run/metrics.jsonl").read_text().splitlines()
        return {
            "rows": [without_times(json.loads(row)) for row in rows],
            "tensors": dict(digests(folder / "run/checkpoints")),
        }


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """The values of a row that two runs of one version have alike."""
    return {key: value for key, value in row.items() if not _matches(key, TIMES)}


def digests(checkpoints: Path) -> Iterator[tuple[str, str]]:
    """(file/tensor, type, shape and digest of its bytes) of the last checkpoint."""
    last = checkpoints / (checkpoints / "LATEST").read_text().strip()
    for path in sorted(last.rglob("*.safetensors")):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, info in header.items():
            begin, end = (8 + length + at for at in info["data_offsets"])
            digest = hashlib.sha256(content[begin:end]).hexdigest()[:16]
            key = f"{path.relative_to(last)}/{name}"
            yield key, f"{info['dtype']} {info['shape']} {digest}"


def record(out: Path, source: Path, only: list[str] | None) -> dict[str, Any]:
    """Measure what OUT does not hold yet; written after every case."""
    found = json.loads(out.read_text()) if out.is_file() else {}
    wanted = [(name, ranks) for name in only or CASES for ranks in RANKS]
    for number, (name, ranks) in enumerate(wanted, 1):
        key = f"{name}, {ranks} process{'es' if ranks > 1 else ''}"
        if key in found:
            continue
        found[key] = measure(name, ranks, source)
        out.write_text(json.dumps(found, indent=1) + "\n")
        problem = found[key].get("error", "").strip().splitlines()[-1:]
        print(f"{number}/{len(wanted)} {key}", *problem, flush=True)
    return found


def differences(
    before: dict[str, Any], after: dict[str, Any], known: dict[str, Any]
) -> list[str]:
    """What is not alike, in lines; empty if everything is."""
    lines = []
    for case in sorted(before.keys() | after.keys()):
        if case not in before or case not in after:
            lines.append(f"{case}: only {'before' if case in before else 'after'}")
            continue
        old, new = before[case], after[case]
        if "error" in old or "error" in new:
            if old.get("error") != new.get("error"):
                lines.append(f"{case}: {new.get('error', 'ran, which failed before')}")
            continue
        if len(old["rows"]) != len(new["rows"]):
            lines.append(f"{case}: {len(old['rows'])} rows, now {len(new['rows'])}")
        for one, other in zip(old["rows"], new["rows"], strict=False):
            where = f"{case}, step {one.get('step')}"
            lines += _unlike(where, one, other, known.get("rows", {}))
        lines += _unlike(case, old["tensors"], new["tensors"], known.get("tensors", {}))
    return lines


def _unlike(
    where: str, old: dict[str, Any], new: dict[str, Any], known: dict[str, Any]
) -> Iterator[str]:
    """Keys of `old` and `new` that differ without being known to."""
    known = {
        key: entry
        for key, entry in known.items()
        if fnmatch.fnmatch(where, entry.get("cases", "*"))
    }
    renamed = {}
    for key, value in old.items():
        entry = next((e for k, e in known.items() if fnmatch.fnmatch(key, k)), None)
        name = key if entry is None else entry["new"]
        if name is None:
            continue
        renamed[name] = value
    added = [k for k, e in known.items() if e.get("added") or e.get("corrected")]
    for key in sorted(renamed.keys() | new.keys()):
        if _matches(key, added):
            continue
        # JSON's text, so that NaN equals itself and 1 is not 1.0.
        was, now = (json.dumps(values.get(key, "absent")) for values in (renamed, new))
        if was != now:
            yield f"{where}: {key} was {was[:70]}, is {now[:70]}"


def _matches(key: str, patterns: Any) -> bool:
    return any(fnmatch.fnmatch(key, pattern) for pattern in patterns)


def between(commits: list[str], only: list[str] | None) -> list[dict[str, Any]]:
    """Record two commits, each in a checkout of its own that is removed afterwards."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        for number, commit in enumerate(commits):
            checkout = Path(place) / str(number)
            add = ["git", "worktree", "add", "--detach", str(checkout), commit]
            subprocess.run(add, check=True, capture_output=True)
            try:
                out = Path(place) / f"{number}.json"
                print(f"-- {commit}", flush=True)
                found.append(record(out, checkout, only))
            finally:
                remove = ["git", "worktree", "remove", "--force", str(checkout)]
                subprocess.run(remove, check=True)
    return found


def main() -> int:
    """Record, or compare and say what differs (exit code 1)."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--source", type=Path, default=Path(__file__).parents[1])
    comparing = commands.add_parser("compare")
    comparing.add_argument("files", type=Path, nargs=2)
    commits = commands.add_parser("between")
    commits.add_argument("commits", nargs=2)
    for one in (recording, commits):
        one.add_argument("--only", nargs="+", choices=list(CASES))
    for one in (comparing, commits):
        one.add_argument("--known", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "record":
        found = record(arguments.out, arguments.source, arguments.only)
        return int(any("error" in case for case in found.values()))
    known = json.loads(arguments.known.read_text()) if arguments.known else {}
    if arguments.command == "compare":
        before, after = (json.loads(path.read_text()) for path in arguments.files)
    else:
        before, after = between(arguments.commits, arguments.only)
    lines = differences(before, after, known)
    print(*lines, sep="\n")
    alike = len(before.keys() & after.keys())
    print(f"{alike} cases compared, {len(lines)} differences")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
