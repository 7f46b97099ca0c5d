"""docs/extending.md: every file in it trains, resumes and generates as it says."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest
import torch

import lumina
from lumina.cli.main import main
from lumina.data import kinds
from lumina.data.documents import read_documents
from lumina.data.readers import table as reader_table
from lumina.errors import LuminaError
from lumina.model.kinds import table
from tiny_runs import Runs
from training import column, final_tensors, train_on_two_ranks

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
FILES = {
    match[1]: match[0]
    for match in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", PAGE, re.DOTALL)
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return Runs(tmp_path, monkeypatch)


def test_the_page_has_its_files() -> None:
    names = {
        "relu.py", "ema.py", "smoothing.py", "by_hand.py", "arithmetic.py",
        "tiled.py", "average.py", "halving.py", "signum.py",
        "low_rank.py", "fasta.py",
    }  # fmt: skip
    assert names <= FILES.keys()


def shown(plugin: str) -> list[list[str]]:
    """The words of the commands that begin by training with a plug-in."""
    found = re.search(rf"```\n(lumina train --plugins {plugin}.*?)```", PAGE, re.DOTALL)
    assert found is not None
    lines = found[1].replace("\\\n", "").splitlines()
    return [shlex.split(line)[1:] for line in lines]


def write_corpus(runs: Runs, folder: Path) -> None:
    """The folder that the commands name."""
    (folder / "corpus").mkdir()
    (folder / "corpus" / "story.txt").write_text(runs.data.read_text())


SMALL = shlex.split(
    "--hidden-size 32 --num-layers 2 --seq-length 32 --tokenizer-vocab-size 300 "
    "--global-batch-size 4 --steps 3 --device cpu --eval-batches 1"
)


def test_the_first_commands(runs: Runs, tmp_path: Path) -> None:
    """As written, but for a corpus and a size that a test has."""
    commands = shown("relu.py")
    write_corpus(runs, tmp_path)
    assert main([*commands[0], *SMALL]) == 0
    again = [word if word != "400" else "4" for word in commands[1]]
    assert main(again) == 0
    assert main([*commands[2], "--max-new-tokens", "3", "--device", "cpu"]) == 0
    network, _ = lumina.load("runs/mine", device="cpu")
    assert network.backbone.blocks[0].feedforward.up.weight.shape == (96, 32)


def test_the_commands_with_a_format_of_files(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressed files and archives of the format are read, too."""
    monkeypatch.setattr(reader_table, "_REGISTERED", {})
    (tmp_path / "proteins").mkdir()
    sequence = "MKTAYIAKQR" * 20
    data = "".join(f">protein {n}\n{sequence[n:]}\nEND\n" for n in range(40))
    (tmp_path / "proteins" / "a.fa.gz").write_bytes(gzip.compress(data.encode()))
    with zipfile.ZipFile(tmp_path / "proteins" / "b.zip", "w") as archive:
        archive.writestr("c.fasta", data)
    assert main([*shown("fasta.py")[0], *SMALL]) == 0
    whole = list(read_documents(["proteins"]))
    assert [d.text for d in whole[:2]] == [f"{sequence}END", f"{sequence[1:]}END"]
    assert len(whole) == 80
    assert list(read_documents(["proteins"], begin=whole[50].place)) == whole[50:]
    (tmp_path / "d.fa").write_text(">one\nMK1\n>two\nMKT\n")
    with pytest.raises(LuminaError, match=r"d\.fa, record 1: a sequence"):
        list(read_documents(["d.fa"]))
    assert [d.text for d in read_documents(["d.fa"], errors="skip")] == ["MKT"]


@pytest.mark.parametrize(
    ("name", "suffixes"),
    [("jsonl", (".new",)), ("new", (".csv",)), ("new", (".New",)), ("new", ())],
)
def test_a_format_that_is_there_is_refused(
    name: str, suffixes: tuple[str, ...]
) -> None:
    with pytest.raises(LuminaError) as caught:
        lumina.register_reader(name, suffixes=suffixes)(lambda handle: [])
    assert caught.value.code == "E005"


def test_the_commands_with_a_kind_of_model(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the pairs of matrices train, and the run goes on."""
    monkeypatch.setattr(table, "KINDS", [*table.KINDS])  # it is gone after the test
    commands = shown("low_rank.py")
    write_corpus(runs, tmp_path)
    assert main([*commands[0], *SMALL]) == 0
    assert main([word if word != "400" else "4" for word in commands[1]]) == 0
    found = final_tensors(tmp_path / "runs" / "pairs")
    trained = {name for name in found if name.startswith("exp_avg/")}
    out = "exp_avg/backbone.blocks.{}.attention.out.{}"
    assert trained == {out.format(n, leaf) for n in range(2) for leaf in "ab"}


def test_the_commands_with_a_rule(runs: Runs, tmp_path: Path) -> None:
    """A run with the rule, and its continuation with the control pinned."""
    commands = shown("halving.py")
    write_corpus(runs, tmp_path)
    assert main([*commands[0], *SMALL, "--no-use-moe"]) == 0
    assert main([word if word != "400" else "4" for word in commands[1]]) == 0
    plan = json.loads((tmp_path / "runs" / "halved" / "plan.json").read_text())
    assert plan["rules"] == ["training_health", "halve_on_plateau"]
    assert plan["pinned"] == ["learning_rate"]


def test_a_state_in_the_cache(runs: Runs) -> None:
    run = runs.train(plugins=("ema.py",), attention_type=("moving_average",))
    network, tokenizer = lumina.load(run.folder, device="cpu")
    ids = tokenizer.encode("The cat went")
    made = list(
        lumina.infer.generate.generate(network, ids, max_new_tokens=4, temperature=0.0)
    )
    for index, token in enumerate(made):
        scores = network.logits(torch.tensor([ids + made[:index]]))[0, -1]
        assert int(scores.argmax()) == token


def test_an_objective(runs: Runs) -> None:
    smoothed = {"plugins": ("smoothing.py",), "objective": "smoothed"}
    plain = runs.train(steps=1)
    none = runs.train(steps=1, part_options=("smoothed.epsilon=0.0",), **smoothed)
    some = runs.train(steps=1, **smoothed)
    assert none.first_loss == some.first_loss == pytest.approx(plain.first_loss)
    norms = [run.rows[0]["grad_norm"] for run in (plain, none, some)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert norms[2] != pytest.approx(norms[0], rel=1e-3)


def test_a_way_of_being_parallel(runs: Runs) -> None:
    """Two processes, started as shown, train what one process trains."""
    shown = re.search(r"```\n(lumina train --plugins by_hand.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    words = shlex.split(shown[1].replace("\\\n", ""))[3:]
    plugin, options = words[0], words[1 : words.index("--train-data")]
    assert options == ["--parallel", "by_hand", "--nproc", "2", "--no-use-moe"]
    alone = runs.train(use_moe=False, batch_size=1)
    config = runs.config(
        use_moe=False,
        batch_size=1,
        plugins=(str(runs.folder / plugin),),
        parallel="by_hand",
        run_dir=str(alone.folder.with_name("by-hand")),
    )
    train_on_two_ranks(config)
    losses = column(Path(config.run.run_dir), "loss")
    assert losses == pytest.approx(alone.column("loss"), rel=1e-5)


def test_a_source_of_data(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, but for a smaller model and fewer steps."""
    monkeypatch.delitem(kinds._REGISTERED, "arithmetic", raising=False)
    shown = re.search(r"```\n(lumina train --plugins arithm.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    first, second = shown[1].replace("\\\n", "").splitlines()
    small = shlex.split(
        "--hidden-size 32 --num-layers 2 --seq-length 32 --global-batch-size 4 "
        "--device cpu"
    )
    words = [*shlex.split(first)[1:], *small]
    assert main(["2" if word == "200" else word for word in words]) == 0
    words = shlex.split(second)[1:]
    assert main(["3" if word == "400" else word for word in words]) == 0
    assert len(column(Path("runs/sums"), "loss")) == 3


def test_an_optimizer(runs: Runs, tmp_path: Path) -> None:
    """As written, but for a corpus and a size that a test has."""
    begin, again = shown("signum.py")
    write_corpus(runs, tmp_path)
    more = shlex.split(
        "--no-use-moe --precision fp32 --warmup-steps 0 --lr-scheduler constant"
    )
    assert main([*begin, *SMALL, *more]) == 0
    assert main([word if word != "400" else "12" for word in again]) == 0
    losses = column(Path("runs/signum"), "loss")
    assert len(losses) == 12 and losses[-1] < losses[0]
    plan = json.loads(Path("runs/signum/plan.json").read_text())
    assert plan["optimizer_options"] == {
        "signum": {"learning_rate": 3e-4, "slow": 0.99}
    }
    assert "signum trains" in plan["reasons"]["optimizer_groups"]
