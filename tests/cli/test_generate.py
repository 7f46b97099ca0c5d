from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from infer.networks import tiny, write_run
from lumina.cli import chat
from lumina.cli.answering import visible
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.infer.decoding.seat_step import SeatStep
from lumina.infer.sampling import Sampler, Sampling
from training import PATIENCE, start


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the quick brown fox and the lazy dog — naïve"] * 4, 320)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer) -> str:
    network = tiny(tokenizer.vocab_size, num_kv_heads=2, seq_length=4096)
    return str(
        write_run(tmp_path_factory.mktemp("runs") / "run", {7: network}, tokenizer)
    )


def answers(capsys, *words) -> list[dict]:
    assert main(["generate", *words, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.covers("INF-02: batch generation")
def test_generate_continues_strings_and_files_of_prompts(
    run, capsys, tmp_path, monkeypatch
):
    lines, records = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_text("the lazy\n\na dog\n")
    records.write_text(json.dumps({"prompt": "two\nlines"}) + "\n")
    options = ["--max-new-tokens", "9", "--seed", "3", "--prompt", "the quick", "x"]
    together = answers(capsys, run, *options, "--prompts-file", str(lines))
    prompts = ["the quick", "x", "the lazy", "a dog"]
    assert [answer["prompt"] for answer in together] == prompts
    seats, inner = set(), SeatStep.run
    monkeypatch.setattr(
        SeatStep, "run", lambda self, turns: (seats.update(turns), inner(self, turns))
    )
    few = [*options, "--prompts-file", str(lines), "--batch-size", "2"]
    assert answers(capsys, run, *few) == together
    assert seats == {0, 1}  # one that ends makes room for the next
    for answer in together:
        assert 0 < len(answer["tokens"]) <= 9
        [alone] = answers(capsys, run, *options[:4], "--prompt", answer["prompt"])
        assert alone == answer
    [record] = answers(capsys, run, "--prompts-file", str(records), *options[:4])
    assert record["prompt"] == "two\nlines"
    records.write_text(
        '{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 2, "top_k": 3}\n'
    )
    capsys.readouterr()
    assert (
        main(["generate", str(run), "--prompts-file", str(records), *options[:4]]) == 0
    )
    assert "not read: id (2), top_k (1)" in capsys.readouterr().err
    array = tmp_path / "prompts.json"
    array.write_text('["a", "b"]')
    assert main(["generate", str(run), "--prompts-file", str(array)]) == 1
    assert capsys.readouterr().err.startswith("E101")


@pytest.mark.covers("INF-12")
@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_answers_that_fill_the_context_are_told(tokenizer, tmp_path, capsys, stream):
    """They are shorter than was asked for, and the text alone does not say why."""
    network = tiny(tokenizer.vocab_size, seq_length=24)
    run = str(write_run(tmp_path / "run", {7: network}, tokenizer))
    asked = ["--max-new-tokens", "99", "--temperature", "0", stream]
    assert main(["generate", run, "--prompt", "the", *asked]) == 0
    said = capsys.readouterr().err
    assert "the answer ended at the model's context of 24 tokens" in said
    assert main(["generate", run, "--prompt", "the", "--max-new-tokens", "2"]) == 0
    assert "context" not in capsys.readouterr().err


def test_generate_streams_the_same_text_as_it_makes_at_once(run, capsys):
    words = [run, "--prompt", "the quick", "--max-new-tokens", "20", "--seed", "2"]
    [answer] = answers(capsys, *words)
    assert main(["generate", *words, "--stream"]) == 0
    assert capsys.readouterr().out == f"the quick{answer['text']}\n"
    assert main(["generate", *words, "--no-stream"]) == 0
    said = capsys.readouterr()
    assert said.out == f"the quick{answer['text']}\n\n"
    assert "tokens in" in said.err


def test_the_choice_of_tokens_follows_the_options(run, capsys):
    words = [run, "--prompt", "the quick", "--max-new-tokens", "12"]
    greedy = answers(capsys, *words, "--temperature", "0")
    assert greedy == answers(capsys, *words, "--temperature", "0", "--seed", "9")
    assert greedy == answers(capsys, *words, "--top-k", "1")
    assert greedy == answers(capsys, *words, "--top-p", "1e-9")
    warm = [answers(capsys, *words, "--seed", str(seed)) for seed in range(4)]
    assert len({json.dumps(answer) for answer in warm}) > 1
    [free] = answers(capsys, *words, "--seed", "1")
    stop = free["text"][2:4]
    [cut] = answers(capsys, *words, "--seed", "1", "--stop", stop)
    assert cut["text"] == free["text"][: free["text"].index(stop)]
    assert cut["reason"] == "stop"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--temperature", "-1"], "E005"),
        (["--top-p", "0"], "E005"),
        (["--top-k", "many"], "E005"),
        (["--max-new-tokens", "0"], "E005"),
        (["--batch-size", "0"], "E005"),
        (["--device", "abacus"], "E005"),
        (["--prompts-file", "nowhere.txt"], "E104"),
        (["--ema"], "E002"),
        (["--best"], "E304"),
        (["--temprature", "1"], "E004"),
    ],
)
def test_generate_refuses_nonsense_with_a_code(run, capsys, words, code):
    assert main(["generate", run, "--prompt", "x", *words]) in (1, 2)
    said = capsys.readouterr()
    assert said.err.startswith(code) and "Traceback" not in said.err
    assert said.out == ""


def test_generate_without_a_model_takes_the_newest_run(run, capsys, monkeypatch):
    monkeypatch.chdir(Path(run).parent)
    assert main(["generate", "--prompt", "x"]) == 1
    assert capsys.readouterr().err.startswith("E104")
    Path("runs").mkdir()
    Path("runs/only").symlink_to(run)
    assert main(["generate", "--prompt", "x", "--max-new-tokens", "1"]) == 0
    assert "using runs/only" in capsys.readouterr().err


def test_a_model_cannot_drive_the_terminal():
    said = "a\x1b[2Jb\x9b1m\r\n\tnaïve 🙂"
    assert visible(said) == "a\ufffd[2Jb\ufffd1m\ufffd\n\tnaïve 🙂"


def chat_options(run) -> list[str]:
    return ["chat", run, "--max-new-tokens", "10", "--seed", "5"]


@pytest.mark.covers(
    "INF-01: --temperature 0.8", "INF-01: --top-p 0.9", "INF-01: --top-k 50"
)
@pytest.mark.parametrize("command", ["chat", "generate"])
def test_tokens_are_chosen_as_the_flags_say_or_as_documented(run, monkeypatch, command):
    """What reaches the choice of tokens, without flags and with each of them."""
    chosen = []
    begin = Sampler.__init__

    def spied(self, sampling, rows):
        chosen.append(sampling)
        begin(self, sampling, rows)

    monkeypatch.setattr(Sampler, "__init__", spied)
    said = {"chat": "--message", "generate": "--prompt"}[command]
    words = [command, run, "--max-new-tokens", "2", said, "the fox"]
    flags = ["--temperature", "0.5", "--top-k", "7", "--top-p", "0.6", "--seed", "3"]
    assert main(words) == 0 and main([*words, *flags]) == 0
    assert chosen == [
        Sampling(temperature=0.8, top_k=50, top_p=0.9, seed=None),
        Sampling(temperature=0.5, top_k=7, top_p=0.6, seed=3),
    ]


@pytest.mark.covers(
    "INF-01: chat",
    "INF-01: --resume",
    "INF-01: --system-prompt",
    "INF-01: --max-tokens",
)
def test_chat_answers_messages_from_the_command_line_and_from_a_pipe(
    run, capsys, monkeypatch
):
    options = chat_options(run)
    assert main([*options, "--message", "the fox", "--message", "a dog"]) == 0
    two_turns = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("the fox\n\na dog\n"))
    assert main(options) == 0
    assert capsys.readouterr().out == two_turns
    monkeypatch.setattr(sys, "stdin", io.StringIO("the fox\n/reset\nthe fox\n/exit\nx"))
    assert main(options) == 0
    forgotten = capsys.readouterr().out
    first = two_turns[: len(forgotten) // 2]
    assert forgotten == first * 2
    assert main([*options, "--message", "the fox", "--system-prompt", "be a dog"]) == 0
    assert capsys.readouterr().out != first
    resumed = ["chat", "--resume", *options[1:2], "--max-tokens", "10", "--seed", "5"]
    assert main([*resumed, "--message", "the fox"]) == 0
    assert capsys.readouterr().out == first


class Terminal:
    """A person at a terminal, typing into a command."""

    def __init__(self, *words: str, **environment: str) -> None:
        self.master, self._other = pty.openpty()
        name = Path(os.ttyname(self._other))
        self.running = start(list(words), name, terminal=True, **environment)
        self.seen = ""

    def wait_for(self, text: str) -> str:
        """Reads on until `text` is there; gives what came before it."""
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], end - time.monotonic())
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.master, 4096).decode("utf-8", "replace")
        before, self.seen = self.seen.split(text, 1)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        self.running.send(signal.SIGINT)

    def end(self) -> int:
        """The exit code, once the command has ended by itself."""
        try:
            return self.running.process.join(PATIENCE) or self.running.process.exitcode
        finally:
            self.running.kill()
            os.close(self._other)
            os.close(self.master)


@pytest.fixture(scope="module")
def endless(tmp_path_factory, tokenizer) -> str:
    """A run whose model says "fox" and "dog" for ever: no answer of it ends."""
    network = tiny(tokenizer.vocab_size, seq_length=100_000)
    fox, dog = (tokenizer.encode(word)[-1] for word in ("the fox", "lazy dog"))
    with torch.no_grad():
        head = network.objective.head.weight
        head[dog] = -head[fox]
        others = [n for n in range(len(head)) if n not in (fox, dog)]
        head[others] = 0
    return str(
        write_run(tmp_path_factory.mktemp("runs") / "endless", {7: network}, tokenizer)
    )


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(endless):
    words = ["chat", endless, "--max-new-tokens", "99999", "--temperature", "0"]
    person = Terminal(*words)
    person.wait_for("> ")
    person.type("/help\n")
    person.wait_for("forget the conversation")
    person.wait_for("> ")
    person.type("tell me all\n")
    person.wait_for("tell me all\r\n")
    for _ in range(9):
        person.wait_for("o")  # of a fox or a dog
    person.interrupt()
    person.wait_for("(stopped)")
    person.wait_for("> ")
    person.type("/exit\n")
    assert person.end() == 0


@pytest.mark.parametrize("moment", ["any", "the instant before it is waited for"])
def test_a_second_ctrl_c_ends_the_chat(run, moment):
    """No moment is so unhappy that one of them is not noticed."""
    elsewhere = {} if moment == "any" else {"SIGNALS_ELSEWHERE": "1"}
    person = Terminal(*chat_options(run), **elsewhere)
    person.wait_for("> ")
    person.interrupt()
    person.wait_for("once more ends")
    person.wait_for("> ")
    person.interrupt()
    assert person.end() == 130


class Keyboard(io.StringIO):
    """What a person types, all at once."""

    def isatty(self) -> bool:
        return True


def test_ctrl_c_just_behind_an_answer_does_not_end_the_chat(run, capsys, monkeypatch):
    """Meant for the answer, it comes an instant too late."""
    late = [KeyboardInterrupt()]

    def say(text):
        print(text, file=sys.stderr)
        if "cut off" in text and late:
            raise late.pop()

    monkeypatch.setattr(chat, "say", say)
    monkeypatch.setattr(sys, "stdin", Keyboard("the fox\na dog\n/exit\n"))
    assert main(["chat", run, "--max-new-tokens", "2", "--temperature", "0"]) == 0
    said = capsys.readouterr().err
    assert not late and said.count("once more ends") == 1
    assert said.count("cut off") == 2


@pytest.mark.covers(
    "INF-02: --test-generation --test-prompts", "DIA-10: --test-generation"
)
def test_the_documents_test_prompts_are_strings_or_files(run, capsys, tmp_path):
    lines = tmp_path / "prompts.txt"
    lines.write_text("the lazy\na dog\n")
    words = ["--test-generation", "--test-prompts", "the quick", str(lines)]
    words += [run, "--max-new-tokens", "3", "--seed", "1", "--json"]
    # RUN stands where the prompts would go on, so it is named by --resume.
    words[words.index(run) : words.index(run) + 1] = ["--resume", run]
    assert main(words) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["prompt"] for one in found] == ["the quick", "the lazy", "a dog"]
    assert all(len(one["tokens"]) == 3 for one in found)


@pytest.mark.covers("INF-03", "DIA-10: --benchmark-generation")
def test_the_speed_of_answers_is_measured_by_batch_and_length(run, capsys, tmp_path):
    out = tmp_path / "speeds.json"
    words = ["--benchmark-generation", "--batch-sizes", "1,2", "--sequence-lengths"]
    words += ["8", "40,5000", "--new-tokens", "4", "--rounds", "2", "--resume", run]
    assert main([*words, "--out", str(out), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    found = json.loads(out.read_text())
    cases = [(one["batch_size"], one["prompt_tokens"]) for one in found["speeds"]]
    assert cases == [(b, length) for b in (1, 2) for length in (8, 40, 5000)]
    for one in found["speeds"]:
        if one["prompt_tokens"] == 5000:
            assert "4,096" in one["problem"] and one["rate"] == []
            continue
        assert len(one["rate"]) == len(one["first_seconds"]) == 2
        assert one["first"] == pytest.approx(sum(one["first_seconds"]) / 2)
        prompts = one["batch_size"] * one["prompt_tokens"]
        assert one["prompt_rate"] == pytest.approx(prompts / one["first"])
        assert one["memory_bytes"] > 10**7
    assert "first token" in captured.out and "batch 2, prompt 40" in captured.err
    slower = json.loads(out.read_text())
    for one in slower["speeds"]:
        one["rate"] = [rate / 2 for rate in one["rate"]]
    other = tmp_path / "slower.json"
    other.write_text(json.dumps(slower))
    assert main(["bench", "compare", str(out), str(other)]) == 1
    assert main(["bench", "compare", str(out), str(out)]) == 0
    capsys.readouterr()


REFUSED_AMOUNTS = [
    (["--batch-sizes", "1,x"], "E005"),
    (["--batch-sizes", "0"], "E005"),
    (["--new-tokens", "1"], "E005"),
]


@pytest.mark.parametrize(("words", "code"), REFUSED_AMOUNTS)
def test_amounts_that_measure_nothing_are_refused(run, capsys, words, code):
    assert main(["bench", "generation", run, *words]) == 2
    assert code in capsys.readouterr().err
