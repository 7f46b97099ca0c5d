"""The report of a run says how it was started and ended, and lets its model speak."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

import lumina
import lumina.train.samples
from reported_run import section
from training import start


def page(run: Path) -> str:
    text = (run / "report.html").read_text(encoding="utf-8")
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def test_a_report_says_why_the_run_ended_and_what_it_was_started_with(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    words = ["train", "--preset", "debug", "--train-data", str(tiny_corpus)]
    words += ["--steps", "2", "--seq-length", "32", "--global-batch-size", "2"]
    words += ["--run-dir", str(run)]
    running = start(words, tmp_path / "log")
    assert running.wait() == 0, running.output
    shown = page(run)
    assert "the run ends at step 2 (steps are the limit" in shown
    assert "lumina train --preset debug" in shown
    assert f"--run-dir '{run}'" in shown  # as one types it
    assert f"{tiny_corpus} (4 documents" in shown
    assert f"lumina {lumina.__version__}" in shown
    assert json.loads((run / "status.json").read_text())["data"]["reason"] in shown


def test_samples_go_on_from_held_out_texts_and_repeat_exactly(
    tiny_config: lumina.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = []
    for name in ("one", "two"):
        run = tmp_path / name
        if samples:  # by the batch of a server, and all in one
            monkeypatch.setattr(lumina.train.samples, "takes_many", lambda *_: False)
        lumina.Trainer(tiny_config.replace(run_dir=str(run), steps=3)).train()
        samples.append(section(run, "samples"))
    first, second = samples
    assert first == second
    prompts = re.findall(r"<pre><b>(.*?)</b>", first, re.DOTALL)
    texts = [
        file.read_text() for file in Path(tiny_config.data.train_data[0]).iterdir()
    ]
    assert prompts
    for prompt in prompts:
        assert any(html.unescape(prompt) in text for text in texts), prompt


def test_a_conversation_is_given_up_to_where_the_assistant_speaks(
    tmp_path: Path,
) -> None:
    turns = [
        [
            {"role": "user", "content": f"say {n}"},
            {"role": "assistant", "content": "hm"},
        ]
        for n in range(12)
    ]
    data = tmp_path / "chat.jsonl"
    data.write_text("".join(json.dumps({"messages": m}) + "\n" for m in turns))
    config = lumina.ConfigPresets.debug().replace(
        train_data=[str(data)],
        steps=2,
        seq_length=64,
        global_batch_size=2,
        run_dir=str(tmp_path / "run"),
    )
    lumina.Trainer(config).train()
    shown = page(tmp_path / "run")
    assert re.search(r"<\|user\|>say \d+<\|end\|><\|assistant\|>", shown)
    assert "<|assistant|>hm" not in shown
