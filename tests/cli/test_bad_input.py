"""Bad input through the command: a code, what to do, no traceback, nothing lost."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import lumina as lumina_package
from lumina.cli.main import main
from marked_cases import marked

SHAPE = [
    "--no-use-moe", "--hidden-size", "32", "--intermediate-size", "48",
    "--num-layers", "1", "--num-heads", "2", "--num-kv-heads", "1",
    "--seq-length", "32", "--tokenizer-vocab-size", "300", "--batch-size", "4",
    "--global-batch-size", "4", "--eval-batches", "1", "--precision", "fp32",
    "--device", "cpu",
]  # fmt: skip

STORY = "".join(
    f"The {('cat', 'dog', 'owl')[n % 3]} slept on day {n}.\n" for n in range(90)
)

Setup = Callable[[Path], object]
Capture = pytest.CaptureFixture[str]


def lumina(*words: object) -> int:
    return main([str(word) for word in words])


def train(*words: object) -> int:
    """With `story.txt` of the current folder unless words name other data."""
    data = [] if "--train-data" in words else ["--train-data", "story.txt"]
    steps = [] if "--steps" in words else ["--steps", "2"]
    return lumina("train", *SHAPE, *data, *steps, *words)


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: modes, and contents of files."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a text to train on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text(STORY)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came to its end."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "story.txt").write_text(STORY)
    words = ["--train-data", folder / "story.txt", "--run-dir", folder / "run"]
    assert train(*words) == 0
    return folder / "run"


def refused(
    capsys: Capture, here: Path, code: str, *says: str, command: Callable[[], int]
) -> None:
    """Run a command that must fail in words and leave everything as it was."""
    capsys.readouterr()
    before = tree(here)
    exit_code = command()
    printed = capsys.readouterr()
    assert printed.err.startswith(code), printed
    assert exit_code == (2 if code.startswith("E0") else 1)
    for text in ("what to do: ", *says):
        assert text in printed.err, printed.err
    assert "Traceback" not in printed.err + printed.out
    assert tree(here) == before


def put(name: str, content: str | bytes) -> Setup:
    """A setup that writes a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda here: (here / name).write_bytes(data)


GOOD = "".join(
    json.dumps({"text": f"A good line, number {n}."}) + "\n" for n in range(30)
)


def record(value: object) -> str:
    """A good file with one bad record, as line 31."""
    return GOOD + (value if isinstance(value, str) else json.dumps(value)) + "\n" + GOOD


def turns(*messages: object) -> dict[str, object]:
    return {"messages": list(messages)}


USER = {"role": "user", "content": "Who?"}
ASSISTANT = {"role": "assistant", "content": "Me."}

FILES: dict[str, tuple[str, str | bytes, str, list[str]]] = {
    # name: file, its content, code, what the message says
    "empty text": ("a.txt", "", "E105", ["a.txt", "nothing in it"]),
    "only blanks": ("a.txt", " \n\n", "E105", ["a.txt"]),
    "empty records": ("a.jsonl", "", "E105", ["a.jsonl"]),
    "latin 1": ("a.txt", "caf\xe9\n".encode("latin-1") * 9, "E103", ["line 1", "0xe9"]),
    "utf 16": ("a.txt", STORY.encode("utf-16"), "E103", ["UTF-16", "iconv"]),
    "bytes": ("a.txt", bytes(range(256)) * 40, "E103", ["a.txt"]),
    "unknown kind": ("a.docx", "text", "E101", [".docx", ".jsonl"]),
    "no suffix": ("data", "text", "E101", ["no suffix"]),
}

RECORDS: dict[str, tuple[object, str, str]] = {
    # name: the record, code, what the message says
    "broken json": ('{"text": "half', "E101", "not JSON"),
    "not an object": ([1, 2], "E101", "a list"),
    "no fields": ({"body": "text"}, "E102", "'body'"),
    "text is a number": ({"text": 7}, "E102", "a number"),
    "no role": (turns({"content": "Hello"}, ASSISTANT), "E102", "no 'role'"),
    "no content": (turns(USER, {"role": "assistant"}), "E102", "no 'content'"),
    "unknown role": (turns({**USER, "role": "king"}, ASSISTANT), "E102", "'king'"),
    "no assistant": (turns(USER), "E102", "assistant"),
    "no turns": (turns(), "E105", "empty"),
    "half a surrogate": ('{"text": "\\ud800"}', "E103", "surrogate"),
    "10 MB": ({"text": "ten megabytes " * 750_000}, "E101", "max_record_bytes"),
}


@pytest.mark.parametrize(
    "case",
    marked(
        FILES,
        {
            "latin 1": "CFG-09: E103 encoding",
            "utf 16": "CFG-09: E103 encoding",
            "bytes": "CFG-09: E103 encoding",
            "unknown kind": ("CFG-07: format", "CFG-09: E101 format"),
            "no suffix": ("CFG-07: format", "CFG-09: E101 format"),
        },
    ),
)
def test_files_that_cannot_be_read(case: str, here: Path, capsys: Capture) -> None:
    name, content, code, says = FILES[case]
    put(name, content)(here)
    refused(
        capsys, here, code, *says,
        command=lambda: train("--train-data", name, "--run-dir", "run"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "case",
    marked(
        RECORDS,
        {
            "broken json": "CFG-09: E101 format",
            "not an object": "CFG-09: E101 format",
            "no fields": "CFG-09: E102 fields",
            "no role": "CFG-09: E102 fields",
            "no content": "CFG-09: E102 fields",
            "half a surrogate": "CFG-09: E103 encoding",
        },
    ),
)
def test_bad_records_stop_a_run_or_are_counted(
    case: str, here: Path, capsys: Capture
) -> None:
    bad, code, reason = RECORDS[case]
    put("a.jsonl", record(bad))(here)
    words = ["--train-data", "a.jsonl", "--run-dir", "run"]
    refused(
        capsys, here, code, "a.jsonl, line 31", reason, "--data-errors skip",
        command=lambda: train(*words, "--data-errors", "fatal"),
    )  # fmt: skip
    assert train(*words, "--data-errors", "skip") == 0
    events = [
        json.loads(x) for x in (here / "run/events.jsonl").read_text().splitlines()
    ]
    (told,) = (event for event in events if event["kind"] == "data_skipped")
    assert told["code"] == code and told["data"]["line"] == 31
    assert told["severity"] == "warning" and reason in told["message"]
    assert "skipped 1" in " ".join(capsys.readouterr().out.split())


def test_skipping_everything_leaves_nothing_to_train_on(
    here: Path, capsys: Capture
) -> None:
    put("a.jsonl", "{broken\n" * 5)(here)
    refused(
        capsys, here, "E105", "5 bad records", "E101",
        command=lambda: train("--train-data", "a.jsonl", "--data-errors", "skip"),
    )  # fmt: skip


def test_training_without_data(here: Path, capsys: Capture) -> None:
    refused(
        capsys, here, "E105", "--train-data", command=lambda: lumina("train", *SHAPE)
    )


def make_folder(name: str) -> Setup:
    return lambda here: (here / name).mkdir(parents=True)


def damage_tokenizer(here: Path) -> None:
    make_folder("tok")(here)
    put("tok/tokenizer.json", '{"version": "1.0", "model": ')(here)


def large_tokenizer(here: Path) -> None:
    from lumina.data.tokenizer import Tokenizer

    Tokenizer.train(iter([STORY]), 300).save(here / "tok")


def other_files(here: Path) -> None:
    make_folder("run")(here)
    put("run/thesis.tex", "years of work")(here)


Case = tuple[Setup | None, list[str], str, list[str]]

TRAINING: dict[str, Case] = {
    # name: what is there before, words, code, what the message says
    "no such data": (None, ["--train-data", "stroy.txt"], "E104", ["stroy.txt"]),
    "no such pattern": (None, ["--train-data", "*.jsonl"], "E104", ["*.jsonl"]),
    "folder without data": (
        make_folder("void"), ["--train-data", "void"], "E105", ["void"]),
    "no data named": (None, ["--train-data", ""], "E104", []),
    "no such eval data": (None, ["--eval-data", "none.txt"], "E104", ["none.txt"]),
    "empty eval data": (
        put("e.txt", ""), ["--eval-data", "e.txt"], "E105", ["e.txt"]),
    "unknown preset": (None, ["--preset", "debgu"], "E001", ["'debug'"]),
    "unknown option": (None, ["--lerning-rate", "1"], "E004", ["--learning-rate"]),
    "unknown choice": (None, ["--lr-scheduler", "cosin"], "E005", ["cosine"]),
    "rate 0": (None, ["--learning-rate", "0"], "E005", ["learning_rate", "> 0"]),
    "rate below 0": (None, ["--learning-rate", "-1"], "E005", ["-1", "> 0"]),
    "rate 2": (None, ["--learning-rate", "2"], "E005", ["<= 1"]),
    "rate nan": (None, ["--learning-rate", "nan"], "E005", ["nan"]),
    "rate inf": (None, ["--learning-rate", "inf"], "E005", ["inf"]),
    "rate a word": (None, ["--learning-rate", "fast"], "E005", ["fast"]),
    "batch 0": (None, ["--batch-size", "0"], "E005", [">= 1"]),
    "batch 1.5": (None, ["--batch-size", "1.5"], "E005", ["whole"]),
    "steps 0": (None, ["--steps", "0"], "E005", [">= 1"]),
    "epochs 0": (None, ["--epochs", "0"], "E005", ["> 0"]),
    "decay below 0": (None, ["--weight-decay", "-0.1"], "E005", [">= 0"]),
    "negative seed": (None, ["--seed", "-1"], "E005", [">= 0"]),
    "heads": (None, ["--num-heads", "3"], "E002", ["num_heads 3"]),
    "key/value heads": (None, ["--num-kv-heads", "3"], "E002", ["num_kv_heads 3"]),
    "batches": (
        None, ["--global-batch-size", "6"], "E002", ["global_batch_size 6"]),
    "small vocabulary": (
        None, ["--vocab-size", "128"], "E002", ["128", "--vocab-size"]),
    "warm-up": (None, ["--warmup-steps", "9"], "E002", ["--warmup-steps 1"]),
    "frozen": (None, ["--freeze", "*"], "E002", ["frozen"]),
    "idle freeze": (None, ["--freeze", "no.such.*"], "E005", ["no.such.*"]),
    "nothing to share": (None, ["--use-mor"], "E002", ["--num-layers 3"]),
    "unknown tokenizer": (None, ["--tokenizer", "none.json"], "E104", ["none.json"]),
    "broken tokenizer": (damage_tokenizer, ["--tokenizer", "tok"], "E101", ["tok"]),
    "tokenizer over vocabulary": (
        large_tokenizer, ["--tokenizer", "tok", "--vocab-size", "128"], "E002",
        ["128"]),
    "run dir of no name": (None, ["--run-dir", ""], "E005", ["run_dir"]),
    "weights of no name": (None, ["--init-from", " "], "E005", ["init_from"]),
    "run dir of a long name": (None, ["--run-dir", "a" * 300], "E104", ["too long"]),
    "run dir is a file": (
        put("taken", "mine"), ["--run-dir", "taken"], "E104", ["taken"]),
    "run dir below a file": (
        put("taken", "mine"), ["--run-dir", "taken/run"], "E104", ["taken"]),
    "run dir holds other files": (
        other_files, ["--run-dir", "run"], "E002", ["run", "--run-dir"]),
    "nothing to resume": (None, ["--resume", "runs/none"], "E304", ["runs/none"]),
    "no latest": (None, ["--resume", "latest"], "E304", ["runs"]),
    "resume of no run": (
        make_folder("void"), ["--resume", "void"], "E304", ["void"]),
    "resume of a file": (None, ["--resume", "story.txt"], "E304", ["story.txt"]),
    "weights from nowhere": (None, ["--init-from", "none"], "E104", ["none"]),
    "no config file": (None, ["--config-file", "none.yaml"], "E104", ["none.yaml"]),
    "broken yaml": (
        put("c.yaml", "steps: [1\nseed: 2\n"), ["--config-file", "c.yaml"], "E101",
        ["c.yaml, line 2"]),
    "yaml of a list": (
        put("c.yaml", "- 1\n"), ["--config-file", "c.yaml"], "E101", ["list"]),
    "unknown key": (
        put("c.yaml", "model:\n  hiden_size: 8\n"), ["--config-file", "c.yaml"],
        "E004", ["hidden_size"]),
    "unknown section": (
        put("c.yaml", "modell:\n  hidden_size: 8\n"), ["--config-file", "c.yaml"],
        "E004", ["'model'"]),
    "wrong type": (
        put("c.yaml", "learning_rate: [1]\n"), ["--config-file", "c.yaml"], "E005",
        ["learning_rate"]),
    "yaml in latin 1": (
        put("c.yaml", "run_dir: caf\xe9\n".encode("latin-1")),
        ["--config-file", "c.yaml"], "E103", ["c.yaml"]),
    "object in yaml": (
        put("c.yaml", "steps: !!python/object/apply:os.getpid []\n"),
        ["--config-file", "c.yaml"], "E101", ["c.yaml"]),
}  # fmt: skip


PATH = ("CFG-07: path", "DAT-46: data-path checks before training")


@pytest.mark.parametrize(
    "case",
    marked(
        TRAINING,
        {
            "no such data": PATH,
            "no such pattern": PATH,
            "no such eval data": PATH,
            "unknown preset": "CFG-08: E001 preset",
            "heads": "CFG-08: E002 combination",
            "unknown option": "CFG-15: unknown keys refused",
            "unknown key": "CFG-15: unknown keys refused",
            "unknown section": "CFG-15: unknown keys refused",
            "rate 0": "CFG-05: LR range",
            "rate 2": "CFG-05: LR range",
            "unknown choice": "CFG-05: scheduler",
        },
    ),
)
def test_training_that_makes_no_sense(case: str, here: Path, capsys: Capture) -> None:
    setup, words, code, says = TRAINING[case]
    if setup is not None:
        setup(here)
    refused(capsys, here, code, *says, command=lambda: train(*words))


@pytest.mark.parametrize("how", ["again", "emptied", "locked"])
def test_an_existing_run_is_not_begun_again(
    how: str, finished: Path, here: Path, capsys: Capture
) -> None:
    import fcntl
    import shutil

    shutil.copytree(finished, here / "run")
    if how == "emptied":
        shutil.rmtree(here / "run" / "checkpoints")
    lock = os.open(here / "run" / ".lock", os.O_RDWR | os.O_CREAT)
    words = ["--run-dir", "run", "--steps", "3"]
    try:
        if how == "locked":
            fcntl.flock(lock, fcntl.LOCK_EX)
            words.append("--auto-resume")
        refused(capsys, here, "E002", "run", "--run-dir", command=lambda: train(*words))
    finally:
        os.close(lock)


ANSWERING: dict[str, tuple[list[str], str, list[str]]] = {
    "missing run": (["generate", "none", "--prompt", "x"], "E104", ["none"]),
    "no prompt": (["generate", "RUN"], "E005", ["--prompt"]),
    "temperature": (
        ["generate", "RUN", "--prompt", "x", "--temperature", "-1"], "E005", ["-1"]),
    "no tokens": (
        ["generate", "RUN", "--prompt", "x", "--max-new-tokens", "0"], "E005", ["0"]),
    "no such prompts": (
        ["generate", "RUN", "--prompts-file", "none.txt"], "E104", ["none.txt"]),
    "chat with nothing": (["chat", "none"], "E104", ["none"]),
    "export of nothing": (["export", "none", "out"], "E104", ["none"]),
    "export of no run": (["export", ".", "out"], "E101", ["neither a run"]),
    "export into files": (["export", "RUN", "."], "E002", ["empty"]),
    "export onto a file": (["export", "RUN", "story.txt"], "E002", ["story.txt"]),
    "import of nothing": (["import", "none", "back"], "E104", ["none"]),
    "import of text": (["import", ".", "back"], "E10", ["folder"]),
    "import onto a run": (["import", "EXPORT", "RUN"], "E002", ["run"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(finished: Path) -> Path:
    folder = finished.parent / "hf"
    assert lumina("export", finished, folder) == 0
    return folder


@pytest.mark.parametrize("case", ANSWERING)
def test_models_that_are_not_there(
    case: str, finished: Path, exported: Path, here: Path, capsys: Capture
) -> None:
    words, code, says = ANSWERING[case]
    places = {"RUN": finished, "EXPORT": exported}
    told = [places.get(word, word) for word in words]
    before = tree(finished.parent)
    refused(capsys, here, code, *says, command=lambda: lumina(*told))
    assert tree(finished.parent) == before


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def break_config(file: Path) -> None:
    file.write_text(file.read_text().replace('"hidden_size": 32', '"hidden_size": 0'))


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "weights cut": ("model.safetensors", cut, "E303"),
    "weights emptied": ("model.safetensors", empty, "E303"),
    "weights gone": ("model.safetensors", Path.unlink, "E104"),
    "shape cut": ("config.json", cut, "E101"),
    "shape of nothing": ("config.json", break_config, "E102"),
    "tokenizer cut": ("tokenizer.json", cut, "E101"),
    "tokenizer gone": ("tokenizer.json", Path.unlink, "E104"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_import_of_a_damaged_folder(
    case: str, exported: Path, here: Path, capsys: Capture
) -> None:
    import shutil

    name, damage, code = DAMAGES[case]
    shutil.copytree(exported, here / "hf")
    damage(here / "hf" / name)
    refused(capsys, here, code, name, command=lambda: lumina("import", "hf", "back"))


@pytest.mark.covers("CFG-12: fix suggestions")
def test_every_error_says_what_to_do() -> None:
    """Whatever raises one: a message and a hint, both written out."""
    missing = []
    source = Path(lumina_package.__file__).parent
    for path in source.rglob("*.py"):
        text = path.read_text()
        if "LuminaError(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            starred = any(isinstance(word, ast.Starred) for word in node.args)
            if node.func.id == "LuminaError" and len(node.args) < 3 and not starred:
                missing.append(f"{path.relative_to(source)}:{node.lineno}")
    assert not missing
