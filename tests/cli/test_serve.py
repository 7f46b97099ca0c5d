"""`lumina serve` as a process."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from infer.networks import MOE, tiny, write_run
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.infer.sampling import Sampling
from lumina.infer.serving.request import Request
from lumina.model.moe import routed_layers
from training import PATIENCE


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    tokenizer = Tokenizer.train(["the quick brown fox and the lazy dog"] * 4, 320)
    network = tiny(tokenizer.vocab_size, num_kv_heads=2, seq_length=4096)
    return str(
        write_run(tmp_path_factory.mktemp("runs") / "run", {7: network}, tokenizer)
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--host", "0.0.0.0"], "E002"),
        (["--port", "99999"], "E005"),
        (["--max-batch-size", "0"], "E005"),
        (["--kv-cache-tokens", "0"], "E005"),
        (["--max-connections", "0"], "E005"),
        (["--max-connections", str(10**12)], "E005"),
        (["--kv-cache-tokens", "300"], "E005"),
        (["--kv-block-size", "0"], "E005"),
        (["--kv-cache-offload"], "E002"),
        (["--expert-parallel-size", "2"], "E002"),
        (["--no-use-kv-cache"], "E002"),
        (["--experts-per-token", "2"], "E002"),
        (["--compile", "--batch-invariant"], "E002"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, capsys, words, code):
    assert main(["serve", run, "--device", "cpu", "--port", "0", *words]) == 2
    assert capsys.readouterr().err.startswith(code)


@pytest.mark.covers("INF-05: precision fp16")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_it_computes_in_what_is_asked_for(run, monkeypatch, precision):
    """What the engine is made of, right before it would listen."""
    engine = served(monkeypatch, run, "--inference-precision", precision)
    wanted = {"fp16": torch.float16, "fp32": torch.float32}[precision]
    assert engine._network.backbone.compute_dtype == wanted


def served(monkeypatch, run, *words):
    """What would listen: the engine of a command that finds its port taken."""
    from lumina.infer.serving import web

    found = []

    def listen(address, served, connections):
        assert connections == 512
        found.append(served.engine)
        raise OSError(98, "in use")

    monkeypatch.setattr(web, "Server", listen)
    assert main(["serve", run, "--device", "cpu", "--port", "0", *words]) == 2
    return found[0]


@pytest.mark.covers("KRN-20", "INF-05: expert_parallel_size 1", "INF-05: use_kv_cache")
def test_a_recipe_and_files_of_options_serve(run, monkeypatch, tmp_path, capsys):
    engine = served(monkeypatch, run, "--config-file", "inference_deployment")
    assert engine._network.backbone.compute_dtype == torch.float16
    assert (engine.limits.rows, engine.limits.tokens) == (32, 2048)
    path = tmp_path / "serving.yaml"
    path.write_text("batch_size: 3\nmax-sequence-length: 99\nbatch_invariant: true\n")
    words = ["--config-file", str(path), "--max-sequence-length", "44"]
    engine = served(monkeypatch, run, *words)
    assert (engine.limits.rows, engine.limits.tokens) == (3, 44)
    assert engine.batch.step.apart
    capsys.readouterr()
    for text, said in {
        "batch_sise: 3": "E004.*did you mean 'batch_size'",
        "batch_size: many": "E005.*batch_size is 'many'",
        "flash_attention: 3": "E005.*give true or false",
        "kv_cache_dtype: int9": "E005.*int8",
        "use_kv_cache: false": "E002.*without its cache",
    }.items():
        path.write_text(text)
        words = ["serve", run, "--device", "cpu", "--config-file", str(path)]
        assert main(words) in (1, 2)
        assert re.match(f"(?s){said}", capsys.readouterr().err), said


@pytest.mark.covers("INF-05: flash attention", "INF-05: top_k 2")
def test_attention_and_experts_are_as_asked_for(tmp_path, monkeypatch):
    tokenizer = Tokenizer.train(["the quick brown fox"] * 4, 300)
    network = tiny(tokenizer.vocab_size, moe=replace(MOE, top_k=1), num_kv_heads=2)
    run = str(write_run(tmp_path / "run", {7: network}, tokenizer))
    answers = {}
    for words in ((), ("--experts-per-token", "2"), ("--no-flash-attention",)):
        engine = served(monkeypatch, run, "--inference-precision", "fp32", *words)
        flash, chosen = set(), set()
        logits, layer = engine._network.logits, next(routed_layers(engine._network))

        def noted(*given, logits=logits, flash=flash, **options):
            flash.add(torch.backends.cuda.flash_sdp_enabled())
            return logits(*given, **options)

        def routed(x, route=layer.route, chosen=chosen):
            found = route(x)
            chosen.add(found.ids_tk.shape[1])
            return found

        engine._network.logits, layer.route = noted, routed
        greedy = Sampling(temperature=0)
        request = Request(tokenizer.prompt("the quick"), greedy, 6, (), tokenizer)
        assert engine.submit(request)
        engine.close()
        answers[words] = request.new_ids, flash, chosen
    assert [flash for _, flash, _ in answers.values()] == [{True}, {True}, {False}]
    assert [chosen for _, _, chosen in answers.values()] == [{1}, {2}, {1}]
    assert answers[()][0] == answers["--no-flash-attention",][0]
    assert answers[()][0] != answers["--experts-per-token", "2"][0]


@pytest.mark.thorough
@pytest.mark.covers("INF-05: compile")
def test_blocks_are_compiled_before_it_listens(tmp_path, monkeypatch, capsys):
    """With the compiler itself; no request waits for it afterwards."""
    from torch._dynamo.utils import counters

    tokenizer = Tokenizer.train(["the quick brown fox"] * 4, 300)
    network = tiny(
        tokenizer.vocab_size, num_layers=1, num_heads=2, num_kv_heads=2, seq_length=32
    )
    run = str(write_run(tmp_path / "run", {7: network}, tokenizer))
    answers = {}
    for words in ((), ("--compile",)):
        before = counters["stats"]["unique_graphs"]
        only = ("--max-batch-size", "1", "--inference-precision", "fp32")
        engine = served(monkeypatch, run, *only, *words)
        made = counters["stats"]["unique_graphs"]
        assert made - before <= (4 if words else 0)
        assert bool(made - before) == bool(words)
        assert ("compiling" in capsys.readouterr().err) == bool(words)
        for text in ("the quick brown", ""):
            ids, greedy = tokenizer.prompt(text), Sampling(temperature=0)
            request = Request(ids, greedy, 5, (), tokenizer)
            assert engine.submit(request)
            answers.setdefault(words, []).append(request)
        engine.close()
        assert counters["stats"]["unique_graphs"] == made
    plain, quick = ([one.new_ids for one in these] for these in answers.values())
    assert plain == quick and all(plain)


@pytest.mark.thorough
@pytest.mark.covers(
    "INF-05: batch 32",
    "INF-05: max_sequence_length 2048",
    "INF-05: kv_cache_dtype",
    "INF-06",
)
def test_the_command_serves_and_ends_after_the_last_answer(run):
    """Its answer is that of `lumina generate`, and a signal does not cut it off."""
    words = [sys.executable, "-m", "lumina", "serve", run, "--port", "0"]
    words += ["--device", "cpu", "--inference-precision", "fp32"]
    words += ["--kv-cache-dtype", "fp16"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        limits, address = process.stderr.readline(), process.stderr.readline()
        assert "up to 32 requests side by side, 2,048 tokens each" in limits
        # 32 rows of 8 blocks; 3 layers, 2 heads, a key and a value of 8 in 2 bytes.
        assert "at most 12.0 MiB in 256 blocks of 256 tokens" in limits
        port = int(address.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        body = {"prompt": "the quick", "max_tokens": 300, "temperature": 0}
        connection.request(
            "POST", "/v1/completions", json.dumps(body | {"stream": True}),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        answer = connection.getresponse()
        first = answer.readline()
        assert first.startswith(b"data: ")
        process.send_signal(signal.SIGTERM)
        rest = answer.read().decode()
        assert rest.endswith("data: [DONE]\n\n")
        pieces = [first.decode()[6:], *rest.split("data: ")]
        said = [json.loads(one) for one in pieces if one.strip() not in ("", "[DONE]")]
        assert said[-1]["choices"][0]["finish_reason"] == "length"
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
