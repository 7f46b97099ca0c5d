"""`lumina evaluate`: the figures of training's own evaluation, on any files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import lumina
from foreign_tokenizers import foreign_tokenizer
from infer.networks import tiny, write_run
from lumina.cli.main import main
from lumina.data.documents import read_documents
from lumina.data.prepare import prepare
from lumina.data.tokenizer import Tokenizer
from lumina.model.spec import HrmSpec
from lumina.state.huggingface import export_folder
from tiny_runs import EXPERTS, Run, Runs, story, write_conversations

TESTS = Path(__file__).parents[1]

KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "experts": EXPERTS,
    "depths": {"use_mod": True, "mod_pattern": "all"},
    "experts and depths": EXPERTS | {"use_mod": True},
    "recursions": {"use_mor": True, "num_layers": 4},
    "reasoner": {
        "use_hrm": True,
        "hrm_mode": "language_model",
        "h_layers": 1,
        "l_layers": 1,
        "expansion": 1.0,
        "halt_max_steps": 3,
    },
    "blocks of one's own": {
        "plugins": (str(TESTS / "recurrent_parts.py"),),
        "block_type": ("mamba",),
    },
    "a backbone of one's own": {
        "plugins": (str(TESTS / "own_parts.py"),),
        "backbone": "running_mean",
    },
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def held_out(folder: Path) -> Path:
    """Documents of many lengths, the longest ones longer than a row."""
    path = folder / "held-out.txt"
    texts = [story(n, first=1000 * n).replace("<|endoftext|>", "") for n in (1, 5, 2)]
    path.write_text("<|endoftext|>".join([*texts, story(30, first=500)]))
    return path


def evaluated(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def eval_loss(run: Run) -> float:
    """As the run's last evaluation has it."""
    return float(run.column("eval_loss")[-1])


@pytest.mark.thorough
@pytest.mark.covers("EVL-01: held-out loss and perplexity", "MON-01: eval_loss")
@pytest.mark.parametrize("kind", KINDS)
def test_the_figure_on_held_out_files_is_the_eval_loss_of_the_run(
    kind: str, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    data = held_out(runs.folder)
    run = runs.train(eval_data=(str(data),), eval_batches=1000, **KINDS[kind])
    plugins = [f"--plugins={file}" for file in KINDS[kind].get("plugins", ())]
    found = evaluated(capsys, run.folder, *plugins, "--data", data)
    assert found["loss"] == pytest.approx(eval_loss(run), abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    texts = [document.text or "" for document in read_documents([data])]
    size = sum(len(text.encode()) for text in texts)
    assert found["bytes"] == size
    bits = found["loss"] * found["tokens"] / math.log(2) / size
    assert found["bits_per_byte"] == pytest.approx(bits)
    tokenizer = Tokenizer.from_path(run.folder / "tokenizer")
    # Every token of a text and the end token after it is predicted once.
    assert found["tokens"] == sum(len(tokenizer.encode(t)) + 1 for t in texts)
    assert found["documents"] == len(texts) == 33
    assert (found["segments"] is not None) == (kind == "reasoner")
    other = evaluated(capsys, run.folder, *plugins, "--data", data, "--batch-size", 3)
    assert other["loss"] == pytest.approx(found["loss"], abs=1e-5)


def test_documents_that_training_itself_held_out_have_its_eval_loss(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.train(eval_batches=1000, eval_fraction=0.2)
    tokenizer = Tokenizer.from_path(run.folder / "tokenizer")
    config = lumina.Config.load(run.folder / "config.yaml")
    store = prepare(config, tokenizer=tokenizer).eval
    assert store is not None and len(store) == 40
    texts = [tokenizer.decode(store.document(n)[1:-1].tolist()) for n in range(40)]
    data = runs.folder / "kept.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = evaluated(capsys, run.folder, "--data", data)
    assert found["loss"] == pytest.approx(eval_loss(run), abs=1e-5)


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_of_conversations_only_what_bears_loss_counts(
    loss_on: str, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_conversations(runs.folder / "chat.jsonl")
    asked = write_conversations(runs.folder / "asked.jsonl", count=7)
    run = runs.train(
        train_data=(str(data),),
        eval_data=(str(asked),),
        eval_batches=1000,
        loss_on=loss_on,
        seq_length=64,
    )
    found = evaluated(capsys, run.folder, "--data", asked)
    assert found["loss"] == pytest.approx(eval_loss(run), abs=1e-5)
    roles = ("assistant",) if loss_on == "assistant" else ("assistant", "user")
    turns = [t for line in asked.read_text().splitlines() for t in
             json.loads(line)["messages"] if t["role"] in roles]  # fmt: skip
    assert found["bytes"] == sum(len(turn["content"].encode()) for turn in turns)
    # The option says otherwise than the run.
    other = "all" if loss_on == "assistant" else "assistant"
    changed = evaluated(capsys, run.folder, "--data", asked, "--loss-on", other)
    assert (changed["tokens"] > found["tokens"]) == (loss_on == "assistant")


def test_records_are_read_as_the_run_read_them(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    data = runs.folder / "asked.jsonl"
    lines = [{"q": f"Where on day {n}?", "a": f"To wood {n}."} for n in range(30)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    named = ("q=prompt", "a=completion")
    run = runs.train(
        train_data=(str(data),), eval_data=(str(data),), eval_batches=1000, steps=1,
        format="prompt", field=named, seq_length=64,
    )  # fmt: skip
    found = evaluated(capsys, run.folder, "--data", data)
    assert found["loss"] == pytest.approx(eval_loss(run), abs=1e-5)
    words = ("--data", data, "--format", "text", "--field", "a=text")
    assert evaluated(capsys, run.folder, *words)["bytes"] > found["bytes"] / 2


@pytest.mark.covers("TRN-10: used for evaluation")
def test_averaged_weights_are_told_of_and_are_what_the_run_evaluates(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    data = held_out(runs.folder)
    run = runs.train(
        eval_data=(str(data),), eval_batches=1000, ema_decay=0.9, learning_rate=0.03
    )
    found = evaluated(capsys, run.folder, "--data", data, "--ema")
    assert found["loss"] == pytest.approx(eval_loss(run), abs=1e-5)
    assert main(["evaluate", str(run.folder), "--data", str(data), "--json"]) == 0
    said = capsys.readouterr()
    assert abs(json.loads(said.out)["loss"] - eval_loss(run)) > 1e-3
    assert "--ema" in said.err


def test_a_task_is_evaluated_with_its_head(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    data = held_out(runs.folder)
    tasks = (f"story={runs.data}", f"again={runs.data}")
    run = runs.train(
        train_data=(),
        tasks=tasks,
        task_eval_data=(f"story={data}", f"again={runs.data}"),
        eval_batches=1000,
        tie_embeddings=False,
    )
    found = evaluated(capsys, run.folder, "--data", data, "--task", "story")
    expected = run.column("task.story.eval_loss")[-1]
    assert found["loss"] == pytest.approx(expected, abs=1e-5)
    assert main(["evaluate", str(run.folder), "--data", str(data)]) == 2
    assert "story, again" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([story()], 300)


def test_of_one_document_it_is_the_loss_of_transformers(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    network = tiny(tokenizer.vocab_size, num_kv_heads=2)
    run = write_run(tmp_path / "run", {3: network}, tokenizer)
    folder = export_folder(network, tokenizer, tmp_path / "exported")
    (tmp_path / "one.txt").write_text("The owl went to the barn on day 7 and slept.")
    ids = tokenizer.encode((tmp_path / "one.txt").read_text())
    tokens = torch.tensor([[tokenizer.bos_id, *ids, tokenizer.eos_id]])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        expected = theirs(input_ids=tokens, labels=tokens).loss.item()
    checkpoint = run / "checkpoints" / "step-00000003"
    for place in (run, checkpoint, folder):
        found = evaluated(capsys, place, "--data", tmp_path / "one.txt")
        assert found["loss"] == pytest.approx(expected, abs=1e-5)
        assert found["tokens"] == tokens.shape[1] - 1
        assert found["row_length"] == network.spec.seq_length


def test_rows_of_another_length_and_bad_records(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", {3: tiny(tokenizer.vocab_size)}, tokenizer)
    data = tmp_path / "texts.jsonl"
    text = story(40).replace("<|endoftext|>", "")
    data.write_text(json.dumps({"text": text}) + '\n{"nothing": 1}\n')
    words = [run, "--data", data, "--data-errors", "skip"]
    found = evaluated(capsys, *words)
    short = evaluated(capsys, *words, "--seq-length", 8)
    assert (found["row_length"], short["row_length"]) == (64, 8)
    assert short["tokens"] == found["tokens"] and found["skipped"] == 1
    assert abs(short["loss"] - found["loss"]) > 1e-4
    assert main(["evaluate", str(run), "--data", str(data)]) == 1
    assert "line 2" in capsys.readouterr().err


def test_the_text_says_every_figure(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", {3: tiny(tokenizer.vocab_size)}, tokenizer)
    data = held_out(tmp_path)
    found = evaluated(capsys, run, "--data", data)
    assert main(["evaluate", str(run), "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert f"{found['loss']:.6f} nats" in said
    assert f"{found['bits_per_byte']:.6f}" in said
    assert f"{found['perplexity']:,.4f}" in said
    assert f"{found['tokens']:,} with a loss" in said
    assert "step 3 of run" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--data", "absent.txt"], "E104", "absent.txt"),
        (["--data", "held-out.txt", "--batch-size", "0"], "E005", "batch-size"),
        (["--data", "held-out.txt", "--seq-length", "0"], "E005", "seq-length"),
        (["--data", "held-out.txt", "--task", "code"], "E005", "code"),
        ([], "E005", "--data"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_the_reason(
    words: list[str],
    code: str,
    said: str,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run(tmp_path / "run", {3: tiny(tokenizer.vocab_size)}, tokenizer)
    held_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "run", *words]) != 0
    told = capsys.readouterr().err
    assert code in told and said in told


def test_a_model_of_puzzles_is_refused_by_name(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hrm = HrmSpec(mode="puzzle", h_layers=1, l_layers=1, halt_max_steps=2)
    shape = tiny(11, hrm=hrm, num_layers=2)
    run = write_run(tmp_path / "run", {3: shape}, tokenizer)
    assert main(["evaluate", str(run), "--data", str(held_out(tmp_path))]) == 2
    told = capsys.readouterr().err
    assert "E002" in told and "solves puzzles" in told
    assert "eval_exact_accuracy" in told


def test_conversations_need_a_model_with_their_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = Tokenizer.from_path(foreign_tokenizer("bytes", tmp_path / "theirs"))
    assert not theirs.has_chat
    run = write_run(tmp_path / "run", {3: tiny(theirs.vocab_size)}, theirs)
    data = write_conversations(tmp_path / "chat.jsonl")
    assert main(["evaluate", str(run), "--data", str(data)]) == 1
    told = capsys.readouterr().err
    assert "E102" in told and "conversations" in told


def test_python_takes_a_run_or_what_load_returns(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    network = tiny(tokenizer.vocab_size)
    run = write_run(tmp_path / "run", {3: network}, tokenizer)
    data = held_out(tmp_path)
    found = lumina.evaluate(run, data)
    loaded = lumina.load(run)
    for model in (loaded, loaded[0], (network, tokenizer)):
        assert lumina.evaluate(model, [data]).loss == pytest.approx(found.loss)
    with pytest.raises(lumina.LuminaError, match="tokenizer"):
        lumina.evaluate(network, data)
    with pytest.raises(lumina.LuminaError, match="not one of Lumina"):
        lumina.evaluate(tokenizer, data)  # type: ignore[arg-type]
