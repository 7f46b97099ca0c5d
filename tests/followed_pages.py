"""Pages of docs/ followed as a person would, with small things in place of large ones.

`Follower` types the commands of a page one after the other, in a folder that has what
the page says one needs: texts, chats, models, runs. Runs are shorter, rows are shorter,
and models narrower. What else is replaced stands in `STAND_INS`, by page.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import tiny_arc
from lumina.cli.main import main
from tiny_runs import story

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SKIP = "*Not run by the tests:"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
SHELL = ("", "sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    kind: str
    text: str
    skipped: bool

    @property
    def lines(self) -> list[str]:
        """Lines that can be typed, each whole."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
        return [line.removeprefix(".venv/bin/") for line in lines if line]

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line that is a command of Lumina's."""
        found = [shlex.split(line, comments=True) for line in self.lines
                 if line.startswith("lumina ")]  # fmt: skip
        # Three dots stand for options of one's own.
        return [[w for w in words[1:] if w not in ("...", "…")] for words in found]


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```\n+([^\n]*)", re.M | re.S)
    return [
        Block(path.stem, match[1], match[2], match[3].startswith(SKIP))
        for match in fence.finditer(text)
    ]


SMALL = {
    "--global-batch-size": "2", "--batch-size": "2", "--seq-length": "64",
    "--eval-batches": "1",
}  # fmt: skip
SHAPE = {
    "--hidden-size": "32", "--intermediate-size": "64", "--num-layers": "2",
    "--num-heads": "2", "--num-kv-heads": "1", "--tokenizer-vocab-size": "300",
}  # fmt: skip
"""In place of the shape of a page that is about something else."""

FOUND_BY_ITSELF = {
    "--auto-batch-size": ("--batch-size",),
    "--tier": ("--batch-size", "--seq-length", "--global-batch-size"),
    "--expert-parallel-size": ("--batch-size", "--global-batch-size"),
}
"""Options -> those of `SMALL` whose values they look for, or that processes divide."""

OTHER_PROGRAMS = {
    "make": "CI begins with `make setup` and `make test`",
    "source": "it would change the shell that runs the tests",
    "pip": "it would change the environment that runs the tests",
    "curl": "it asks a server: tests/infer/test_serving.py sends such requests",
    "tensorboard": "it serves until it is stopped; its reader is used in other tests",
    "wandb": "it sends files to an account",
    "python": "scripts of benchmarks/ that need a GPU",
    "sh": "of a block that is not run",
    "torchrun": "of a block that is not run",
}
"""What a line of a page begins with -> why it is not typed here."""

WALKED = (
    "first-run", "fine-tune", "pretrain", "python", "run-folder", "report", "hardware",
    "sparse", "adaptive", "practice", "checkpoints",
)  # fmt: skip
"""Pages that go on from what they have made, and are walked with shapes of their own.

All other pages show ways to do something, each of which begins anew.
"""

DRAWN = "--preset debug --no-use-moe " + shlex.join(w for p in SHAPE.items() for w in p)
KEPT = "--save-every-n-batches 1 --save-total-limit 20"
FEW = "--batch-sizes 1,2 --sequence-lengths 8,16 --new-tokens 2 --rounds 1"

STAND_INS: dict[str, dict[str, str]] = {
    "adapters": {"--init-from models/llama": "--init-from runs/base"},
    "benchmarks": {
        "--preset b1": DRAWN, "--preset dense_350m": "--config-file run.yaml",
        "--steps 20": "--steps 2",
        "--blocks 5": "--blocks 1", "bfloat16": "float32",
        "--length 4096": "--length 64",
        "transformers+compile liger torchtitan+compile": "transformers",
        " --compile": "", "--batch-sizes 1,4,32": FEW,
        "--sequence-lengths 128 --new-tokens 256": FEW,
    },
    "data": {"--block-size 100000": "--block-size 500", "cl100k_base": "my-model"},
    "decoding": {"--batch-sizes 1,32 --sequence-lengths 128 --new-tokens 256": FEW},
    "diagnosis": {
        "--steps 20": "--steps 2 --warm-up 1 --trace-steps 1",
        "--steps 50": "--steps 2 --seconds 0.1",
        "--batch-sizes 1,4,8,16 --sequence-lengths 512,1024,2048": FEW,
        "memory --preset dense_10m": f"memory --seq-length 64 --batch-size 2 {DRAWN}",
    },
    "evaluation": {"--shots 5": "--shots 1 --too-long cut"},
    "long-context": {
        "--lengths 1024 4096 16384": "--lengths 64 128",
        "--lengths 4096 16384": "--lengths 64 128", "--lengths 4096": "--lengths 128",
        "--count 2000": "--count 3", "--count 400": "--count 3",
        "--length 3000": "--length 600",
        "--nproc 8": "--nproc 4",  # one group, so that one batch of two rows is enough
    },
    "memory": {"/mnt/nvme": "nvme"},
    "mixtures": {
        "0:512 1000:1024 2000:4096": "0:32 1:64",
        "0e:16384 5e:32768 10e:65536 15e:131072 20e:262144": "0e:32 1e:64",
        "--epochs 25": "--epochs 2",
    },
    "schedules": {
        "--warmup-steps 100": f"--warmup-steps 1 {KEPT}",
        "step-00010000": "step-00000002",
        "--decay-steps 2000": "--decay-steps 2",
        "--hidden-size 256 --num-heads 4 --num-layers 4": "",
        "--hidden-size 2048 --num-heads 32 --num-layers 16": "",
        "--base-width 256 --base-depth 4": "--base-width 16 --base-depth 1",
        "--lengths 512 1024 2048": "--lengths 32 64", "--vocab-size 32000": DRAWN,
    },
    "trackers": {"tensorboard wandb": "tensorboard wandb --wandb-mode offline"},
    "README": {"--preset debug --against": f"{DRAWN} --against"},
    "runs": {"--seeds 3": "--list-runs"},
    "tokenizers": {
        "--vocab-size 32768": "--vocab-size 300", " cl100k_base": "",
        "models/gpt2": "my-model",
    },
}  # fmt: skip
"""Page -> words of its commands -> what is typed in their place."""


@dataclass
class Follower:
    """Types the commands of a page in the present folder."""

    page: str
    trained: int = 0

    def follow(self, words: list[str]) -> None:
        """Type a command; it has to end well."""
        words = self.smaller(words)
        if self.page not in WALKED:
            _begin_anew(words)
        if words[0] == "serve":  # the tests let it find its port taken
            assert main([*words, "--port", "0"]) == 2
        else:
            run_command(words)

    def smaller(self, words: list[str]) -> list[str]:
        """The same command with few steps on short rows."""
        line = shlex.join(words)
        for old, new in STAND_INS.get(self.page, {}).items():
            line = line.replace(old, new)
        words = shlex.split(line)
        if words[0] in ("generate", "chat") and "--max-new-tokens" not in words:
            words += ["--max-new-tokens", "4"]
        if words[0] in ("lr-range", "lr-find"):
            words += [*_missing(words, SMALL), *self._shape(words)]
            return words if "--steps" in words else [*words, "--steps", "4"]
        if words[0] != "train" or "--dry-run" in words:
            return words
        self.trained += 1
        steps = str(2 * self.trained)
        if "--steps" in words:
            words[words.index("--steps") + 1] = steps
        elif not {"--epochs", "--resume", "--decay-steps"} & {*words}:
            words += ["--steps", steps]
        if "--save-every-n-batches" in words:
            words[words.index("--save-every-n-batches") + 1] = "1"
        if {"--resume", "--branch-from"} & {*words}:
            return words
        found = {f for word in words for f in FOUND_BY_ITSELF.get(word, ())}
        for flag in SMALL.keys() - found:
            if flag in words:
                words[words.index(flag) + 1] = SMALL[flag]
            else:
                words += [flag, SMALL[flag]]
        return [*words, *self._shape(words)]

    def _shape(self, words: list[str]) -> list[str]:
        if self.page in WALKED or {"--init-from", "--config-file"} & {*words}:
            return []
        return _missing(words, SHAPE)


def _missing(words: list[str], options: dict[str, str]) -> list[str]:
    return [w for pair in options.items() if pair[0] not in words for w in pair]


def _begin_anew(words: list[str]) -> None:
    """Removes what an earlier way of the page has written to the same place."""
    if {"--resume", "--dry-run"} & {*words}:
        return
    target = None
    if "--run-dir" in words:
        target = words[words.index("--run-dir") + 1]
    elif words[0] in ("export", "import"):
        target = words[2]
    elif words[:2] == ["context", "texts"]:
        Path(words[2]).unlink(missing_ok=True)
    elif words[:2] == ["tokenizer", "train"]:
        target = words[words.index("--output") + 1]
    if target is not None:
        shutil.rmtree(target, ignore_errors=True)


NARROW = """--preset dense_10m --hidden-size 64 --num-layers 1 --num-heads 2
--num-kv-heads 1 --seq-length 64 --global-batch-size 2 --steps 1"""


def run_command(words: list[str]) -> None:
    assert main(words) == 0, f"lumina {shlex.join(words)}"


def furnish(folder: Path) -> None:
    """Puts everything into the present folder that the pages say one needs."""
    for name in ("corpus", "books", "farm", "crawl", "src", "texts"):
        (folder / name).mkdir()
        (folder / name / "story.txt").write_text(story())
    for name in ("unseen", "tales", "held-out", "held_out", "hens", "more"):
        (folder / f"{name}.txt").write_text(story(20, first=500))
    chats = "".join(
        json.dumps({"messages": [
            {"role": "user", "content": f"How late is it in room {n}?"},
            {"role": "assistant", "content": f"It is {n} o'clock."},
        ]}) + "\n"
        for n in range(12)
    )  # fmt: skip
    for name in ("chats", "talks", "tests"):
        (folder / f"{name}.jsonl").write_text(chats)
    shutil.copytree(ROOT / "examples", folder / "examples")


def _write_questions(folder: Path) -> None:
    """Files of evaluation tasks, in their published forms."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "mmlu").mkdir()
    known = [
        {"question": f"What is {n} and one?", "subject": "sums", "answer": n % 4,
         "choices": [str(n + 1 + shift - n % 4) for shift in range(4)]}
        for n in range(6)
    ]  # fmt: skip
    for name in ("dev", "test"):
        pq.write_table(pa.Table.from_pylist(known), folder / f"mmlu/{name}.parquet")
    goes_on = {"activity_label": "Walking", "ctx_a": "A cat walks.",
               "ctx_b": "then it", "label": "0",
               "endings": ["sleeps", "sits", "eats", "sings"]}  # fmt: skip
    hot = {"question": "What is hot?", "answerKey": "A",
           "choices": {"text": ["fire", "ice"], "label": ["A", "B"]}}  # fmt: skip
    for name, records in {
        "questions": known, "hellaswag": [goes_on] * 2, "arc": [hot] * 2,
        "medical": [{"question": "What helps?", "terms": ["rest"]}],
        "prompts": [{"prompt": "The cat"}],
        "HumanEval": [{"prompt": "def twice(x):\n", "entry_point": "twice",
                       "test": "def check(f): assert f(1) == 2"}],
    }.items():  # fmt: skip
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in records)
        )


def furnish_more(folder: Path) -> None:
    """Models and runs too, for the pages that begin with them."""
    (folder / "words.txt").write_text("swearword\n")
    (folder / "crawl.jsonl").write_text(
        "".join(json.dumps({"text": story(2, first=n)}) + "\n" for n in range(40))
    )
    (folder / "gsm8k.jsonl").write_text(
        "".join(
            json.dumps({"question": f"What is {n} and one?", "answer": f"{n + 1}"})
            + "\n"
            for n in range(20)
        )
    )
    _write_questions(folder)
    solved = "".join(
        str((3 * (r % 3) + r // 3 + c) % 9 + 1) for r in range(9) for c in range(9)
    )
    grid = solved.replace("5", "0")
    (folder / "puzzles.txt").write_text(f"{grid} {solved}\n" * 8)
    for name in ("training", "evaluation"):
        (folder / name).mkdir()
        tasks = {f"{n}": tiny_arc.task("same", n) for n in range(3)}
        for key, task in tasks.items():
            (folder / name / f"{key}.json").write_text(json.dumps(task))
    (folder / "run.yaml").write_text(
        "preset: debug\nhidden_size: 32\nintermediate_size: 64\nnum_layers: 2\n"
        "num_heads: 2\nnum_kv_heads: 1\ntokenizer_vocab_size: 300\nseq_length: 64\n"
        "global_batch_size: 2\ntrain_data: [corpus/]\n"
    )
    train = [*shlex.split(f"train {NARROW}"), "--train-data", "corpus"]
    run_command([*train, "--run-dir", "runs/base"])
    run_command(["export", "runs/base", "my-model"])
    sparse = train.copy()
    sparse[sparse.index("--preset") + 1] = "debug"
    run_command(
        [*sparse, "--num-experts", "2", "--moe-top-k", "1", "--run-dir", "BASE"]
    )
    (folder / "books" / "long.txt").write_text(story(400).replace("<|endoftext|>", ""))
    for name in ("llama", "gpt2", "phi-2", "FOLDER"):
        shutil.copytree(folder / "my-model", folder / name)
    for name in ("runs/first", "runs/before", "runs/after", "runs/NAME", "RUN"):
        shutil.copytree(folder / "runs/base", folder / name)
    for name in ("runs/a-1", "runs/a-2", "runs/b-1", "runs/b-2"):
        shutil.copytree(folder / "runs/base", folder / name)
    shutil.copytree(folder / "corpus", folder / "PATH")
    (folder / "tokenizers").mkdir()
    shutil.copytree(folder / "my-model", folder / "tokenizer")
    lora = ["train", "--init-from", "runs/base", "--use-peft", "--train-data", "farm/"]
    lora += ["--steps", "1", "--seq-length", "64", "--global-batch-size", "2"]
    run_command([*lora, "--run-dir", "runs/city"])
    run_command(["adapters", "convert", "runs/city", "adapters/city"])
    shutil.copytree(folder / "my-model", folder / "tokenizers/mine")
