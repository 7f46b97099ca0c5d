"""~ at the beginning of a path, wherever an option is written, and the closing hint."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from lumina import Config
from lumina.cli import parsing
from lumina.cli.main import main
from lumina.config.leaves import is_list
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError
from tiny_runs import write_conversations
from training import DENSE, SHAPE, start, words

FLAGS = [*SHAPE, *DENSE, *words("--precision fp32 --steps 3 --eval-fraction 0")]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another one to work in."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home


@pytest.mark.parametrize(
    "leaf",
    ["train_data", "eval_data", "tokenizer", "init_from", "plugins",
     "expert_registry", "run_dir", "resume"],
)  # fmt: skip
@pytest.mark.parametrize("door", ["flag", "file", "python"])
def test_every_path_is_expanded_at_every_door(home, leaf, door):
    if door == "file":
        (home / "c.yaml").write_text(f"{leaf}: ~/x\n")
        config = Config.resolve(file="~/c.yaml")
    elif door == "flag":
        config = Config.resolve(flags={leaf: "~/x"})
    else:
        path = Path("~/x")
        config = Config().replace(**{leaf: [path] if is_list(leaf) else path})
    value = getattr(getattr(config, LEAVES[leaf]), leaf)
    assert value in (str(home / "x"), (str(home / "x"),))


def test_paths_of_tasks_are_expanded(home):
    config = Config().replace(tasks=["a=~/a.txt", "b=c/~"])
    assert config.data.tasks == (f"a={home}/a.txt", "b=c/~")


def test_an_unknown_home_is_refused(home):
    with pytest.raises(LuminaError, match="home folder") as caught:
        Config().replace(run_dir="~nobody-of-this-name/r")
    assert caught.value.code == "E104"


def hint(log):
    """The words of the closing hint, as a shell understands them."""
    (line,) = [x for x in log.read_text().splitlines() if x.split()[:1] == ["next"]]
    return shlex.split(line)[1:]


@pytest.mark.parametrize("kind", ["texts", "conversations"])
def test_the_closing_hint_can_be_copied(
    home, tmp_path, lumina_cache, tiny_corpus, kind
):
    data = tiny_corpus
    if kind == "conversations":
        data = write_conversations(tmp_path / "talk.jsonl")
    where = ["--train-data", str(data), "--run-dir=~/my run's"]
    log = tmp_path / "log"
    running = start(["train", *FLAGS, *where], log, HOME=str(home))
    assert running.wait() == 0, running.output
    run = home / "my run's"
    assert (run / "status.json").is_file()
    command = "chat" if kind == "conversations" else "generate"
    assert hint(log)[:3] == ["lumina", command, str(run)]
    answer = ["--message", "hi"] if kind == "conversations" else ["--prompt", "a"]
    asked = ["--max-new-tokens", "2", *answer]
    tried = start([*hint(log)[1:3], *asked], tmp_path / "tried", HOME=str(home))
    assert tried.wait() == 0, tried.output


@pytest.mark.parametrize(
    "command",
    [
        "runs show ~/run", "runs list ~/run", "runs report ~/run", "explain ~/run",
        "checkpoints list ~/run", "checkpoints prune ~/run", "generate ~/run",
        "export ~/run ~/out", "import ~/run ~/out", "evaluate ~/run --data=~/x",
        "data blocks ~/x --out=~/out", "experience export ~/out",
        "generate run --prompts-file=~/x", "replay ~/run", "tokenizer inspect ~/x",
    ],
)  # fmt: skip
def test_every_path_of_every_command_is_expanded(home, monkeypatch, command):
    """A shell leaves ~ in --option=~/path as it is, and Python leaves it everywhere."""
    seen: list[argparse.Namespace] = []
    parse = parsing.parse

    def stop(parser, given):
        seen.append(parse(parser, given))
        raise SystemExit(0)

    monkeypatch.setattr(parsing, "parse", stop)
    assert main(command.split()) == 0
    values = [v for value in vars(seen[0]).values()
              for v in (value if isinstance(value, list) else [value])]  # fmt: skip
    texts = [value for value in values if isinstance(value, str)]
    assert not [text for text in texts if text.startswith("~")]
    assert [text for text in texts if text.startswith(str(home))]


def test_a_text_may_begin_with_a_tilde(home):
    parser = parsing.Parser(prog="x")
    parser.add_argument("--prompt", metavar="TEXT")
    parser.add_argument("--test", metavar="TEXT|FILE", nargs="+")
    (home / "there").touch()
    args = parsing.parse(parser, ["--prompt", "~/x", "--test", "~/x", "~/there"])
    assert args.prompt == "~/x" and args.test == ["~/x", str(home / "there")]
