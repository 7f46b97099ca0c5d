"""`lumina serve` as a process."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys

import pytest
import torch

from infer.networks import tiny, write_run
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
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
        (["--kv-cache-tokens", "300"], "E005"),
        (["--kv-block-size", "0"], "E005"),
        (["--kv-cache-offload"], "E002"),
    ],
)
def test_options_that_make_no_sense_are_refused(run, capsys, words, code):
    assert main(["serve", run, "--device", "cpu", "--port", "0", *words]) == 2
    assert capsys.readouterr().err.startswith(code)


@pytest.mark.covers("INF-05: precision fp16")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_it_computes_in_what_is_asked_for(run, monkeypatch, precision):
    """What the engine is made of, right before it would listen."""
    from lumina.infer.serving import web

    found = []

    def listen(address, served):
        found.append(served.engine._network)
        raise OSError(98, "in use")

    monkeypatch.setattr(web, "Server", listen)
    words = ["--inference-precision", precision]
    assert main(["serve", run, "--device", "cpu", "--port", "0", *words]) == 2
    wanted = {"fp16": torch.float16, "fp32": torch.float32}[precision]
    assert found[0].backbone.compute_dtype == wanted


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
