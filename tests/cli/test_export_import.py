"""`lumina export` and `lumina import`: out to transformers, and back to a run."""

from __future__ import annotations

import json

import pytest
import torch

from lumina.cli.main import main

TINY = [
    "--device", "cpu", "--precision", "fp32", "--hidden-size", "32", "--num-heads", "2",
    "--num-kv-heads", "1", "--intermediate-size", "48", "--num-layers", "2",
    "--seq-length", "32", "--tokenizer-vocab-size", "300", "--global-batch-size", "4",
    "--batch-size", "4", "--learning-rate", "3e-3", "--eval-batches", "1",
]  # fmt: skip


def lumina(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module", params=["dense", "moe"])
def run(request, tiny_corpus, tmp_path_factory):
    """A run of the command itself, dense or routed."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    moe = ["--use-moe", "--num-experts", "4", "--moe-top-k", "2"]
    kind = moe if request.param == "moe" else ["--no-use-moe"]
    lumina(
        "train", "--preset", "debug", *TINY, *kind, "--train-data", tiny_corpus,
        "--run-dir", folder, "--steps", "4",
    )  # fmt: skip
    return folder


def test_exported_run_loads_in_transformers_and_comes_back(run, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    from lumina.infer.load import load

    lumina("export", run, tmp_path / "hf")
    assert "AutoModelForCausalLM" in capsys.readouterr().out
    network, tokenizer = load(run, "cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "The owl went to the lake on day 7."
    ids = their_tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    assert ids[0].tolist() == tokenizer.encode(text)
    logits = network.logits(ids)
    torch.testing.assert_close(theirs(ids).logits, logits, rtol=1e-5, atol=1e-5)

    lumina("import", tmp_path / "hf", tmp_path / "back")
    assert "--init-from" in capsys.readouterr().out
    back, back_tokenizer = load(tmp_path / "back", "cpu")
    assert back_tokenizer.fingerprint == tokenizer.fingerprint
    torch.testing.assert_close(back.logits(ids), logits, rtol=1e-6, atol=1e-6)

    lumina("export", tmp_path / "back", tmp_path / "again")
    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("hf", "again")
    )
    assert first == second, "there and back loses no bit"


@pytest.mark.covers("TRN-10: used for export")
def test_the_average_of_the_weights_is_exported_on_request(tiny_corpus, tmp_path):
    from lumina.infer.load import load

    lumina(
        "train", "--preset", "debug", *TINY, "--no-use-moe", "--train-data",
        tiny_corpus, "--run-dir", tmp_path / "run", "--steps", "4",
        "--ema-decay", "0.9",
    )  # fmt: skip
    ids = torch.arange(20, 40)[None]
    logits = {}
    for name, words in (("last", []), ("average", ["--ema"])):
        lumina("export", tmp_path / "run", tmp_path / name, *words)
        logits[name] = load(tmp_path / name, "cpu")[0].logits(ids)
        held, _ = load(tmp_path / "run", "cpu", ema=bool(words))
        torch.testing.assert_close(logits[name], held.logits(ids), rtol=0, atol=1e-6)
    assert (logits["last"] - logits["average"]).abs().max() > 1e-3


@pytest.mark.covers("MOD-40: frozen", "MOD-40: weights loaded from local safetensors")
def test_imported_weights_train_on_with_a_frozen_backbone(run, tiny_corpus, tmp_path):
    """Local safetensors as a frozen base: only what is not frozen moves."""
    from lumina.state.weights import open_weights

    lumina("export", run, tmp_path / "hf")
    lumina("import", tmp_path / "hf", tmp_path / "base")
    lumina(
        "train", "--init-from", tmp_path / "base", "--freeze", "backbone.blocks.*",
        "--train-data", tiny_corpus, "--run-dir", tmp_path / "tuned", "--steps", "3",
        "--global-batch-size", "4", "--batch-size", "4", "--device", "cpu",
        "--precision", "fp32",
    )  # fmt: skip
    before = open_weights(tmp_path / "base").source
    after = open_weights(tmp_path / "tuned").source
    moved = {
        name
        for name in before.names()
        if not torch.equal(before.tensor(name), after.tensor(name))
    }
    routing = {name for name in moved if name.endswith(".load")}
    free = {name for name in before.names() if ".blocks." not in name}
    assert moved - routing == free


def test_an_imported_run_is_listed_and_not_resumed_by_mistake(run, tmp_path, capsys):
    lumina("export", run, tmp_path / "hf", "--dtype", "bfloat16")
    lumina("import", tmp_path / "hf", tmp_path / "runs" / "base")
    capsys.readouterr()
    lumina("runs", tmp_path / "runs", "--json")
    listed = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in listed] == ["base"]
    assert listed[0]["checkpoint"] == "step-00000000"


def test_full_folders_and_wrong_sources_are_refused(run, tmp_path, capsys):
    lumina("export", run, tmp_path / "hf")

    def refused(code, *words):
        capsys.readouterr()
        assert main([str(word) for word in words]) in (1, 2)
        error = capsys.readouterr().err
        assert code in error and "Traceback" not in error

    refused("E002", "export", run, tmp_path / "hf")
    refused("E002", "import", tmp_path / "hf", run)
    refused("E104", "export", tmp_path / "nowhere", tmp_path / "x")
    refused("E104", "import", tmp_path / "nowhere", tmp_path / "x")
    refused("E005", "export", run, tmp_path / "x", "--dtype", "int3")
    refused("E002", "export", run, tmp_path / "x", "--ema")
    (tmp_path / "hf" / "tokenizer.json").unlink()
    refused("E104", "import", tmp_path / "hf", tmp_path / "x")
    assert not (tmp_path / "x").exists()


FAMILIES = {
    "mistral": ["--window-size", "8"],
    "qwen2": ["--attention-bias"],
    "qwen3": ["--qk-norm", "rms", "--head-dim", "24"],
    "olmoe": [
        "--use-moe", "--num-experts", "4", "--qk-norm", "rms_full",
        "--no-moe-normalise-top-k",
    ],
    "deepseek_v2": [
        "--use-moe", "--num-experts", "8", "--moe-groups", "4", "--moe-top-groups", "2",
        "--moe-shared-experts", "1", "--moe-first-dense", "1", "--mla-kv-rank", "12",
        "--no-moe-normalise-top-k", "--num-kv-heads", "2",
    ],
    "deepseek_v3": [
        "--use-moe", "--num-experts", "8", "--moe-groups", "4", "--moe-top-groups", "2",
        "--moe-score", "sigmoid", "--moe-shared-experts", "1", "--moe-first-dense", "1",
        "--moe-bias-update-rate", "0.01", "--mla-kv-rank", "12", "--num-kv-heads", "2",
    ],
}  # fmt: skip


@pytest.mark.covers("MOD-40: weights loaded from local safetensors")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_out_and_comes_back(family, tiny_corpus, tmp_path, capsys):
    """Trained here, the same there, imported again, and trained on."""
    transformers = pytest.importorskip("transformers")
    from lumina.infer.load import load

    lumina(
        "train", "--preset", "debug", *TINY, "--no-use-moe", *FAMILIES[family],
        "--train-data", tiny_corpus, "--run-dir", tmp_path / "run", "--steps", "4",
    )  # fmt: skip
    lumina("export", tmp_path / "run", tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert theirs.config.model_type == family
    network, tokenizer = load(tmp_path / "run", "cpu")
    ids = torch.tensor([tokenizer.encode("The owl went to the lake on day 7.")])
    logits = network.logits(ids)
    torch.testing.assert_close(theirs(ids).logits, logits, rtol=1e-5, atol=1e-5)

    lumina("import", tmp_path / "hf", tmp_path / "base")
    back, _ = load(tmp_path / "base", "cpu")
    torch.testing.assert_close(back.logits(ids), logits, rtol=1e-6, atol=1e-6)
    lumina(
        "train", "--init-from", tmp_path / "base", "--train-data", tiny_corpus,
        "--run-dir", tmp_path / "tuned", "--steps", "2", "--global-batch-size", "4",
        "--batch-size", "4", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    capsys.readouterr()
    wrong = "llama" if family != "mistral" else "qwen2"
    there = str(tmp_path / "no")
    assert main(["export", str(tmp_path / "run"), there, "--format", wrong]) == 2
    error = capsys.readouterr().err
    assert "E002" in error and "format" in error and f"--format {family}" in error
    lumina("export", tmp_path / "tuned", tmp_path / "again", "--format", family)


@pytest.mark.covers("MOD-03: short further training")
def test_a_multi_head_run_becomes_grouped_and_trains_on(tiny_corpus, tmp_path, capsys):
    """Pooling costs something, says how much, and further training wins it back."""
    multi = ["--num-heads", "4", "--num-kv-heads", "4"]
    lumina(
        "train", "--preset", "debug", *TINY, *multi, "--no-use-moe", "--train-data",
        tiny_corpus, "--run-dir", tmp_path / "multi", "--steps", "60",
    )  # fmt: skip
    lumina("export", tmp_path / "multi", tmp_path / "hf")
    capsys.readouterr()
    lumina(
        "import", tmp_path / "hf", tmp_path / "grouped", "--num-kv-heads", "1",
        "--eval-data", tiny_corpus,
    )  # fmt: skip
    before, after = _losses(capsys.readouterr().out)
    assert after > before + 0.01
    lumina(
        "train", "--init-from", tmp_path / "grouped", "--train-data", tiny_corpus,
        "--run-dir", tmp_path / "tuned", "--steps", "40", "--global-batch-size", "4",
        "--batch-size", "4", "--device", "cpu", "--precision", "fp32",
        "--learning-rate", "3e-3", "--warmup-steps", "2", "--eval-batches", "1",
    )  # fmt: skip
    capsys.readouterr()
    lumina(
        "import", tmp_path / "tuned", tmp_path / "again", "--num-kv-heads", "1",
        "--eval-data", tiny_corpus,
    )  # fmt: skip
    tuned, same = _losses(capsys.readouterr().out)
    assert tuned == same < (before + after) / 2
    assert main(["import", str(tmp_path / "hf"), str(tmp_path / "x"), "--num-kv-heads",
                 "3"]) == 2  # fmt: skip
    assert not (tmp_path / "x").exists()


def _losses(text):
    line = next(line for line in text.splitlines() if "pooled" in line)
    words = line.replace(",", "").split()
    return float(words[words.index("loss") + 1]), float(words[words.index("after") - 1])


@pytest.mark.covers(
    "INF-07: torchscript", "INF-07: tokenizer and configuration included"
)
def test_a_run_becomes_a_graph_with_its_tokenizer_and_configuration(
    run, tmp_path, capsys
):
    from lumina.infer.graph_files import open_graph, run_in_pieces
    from lumina.infer.load import load

    lumina("export", run, tmp_path / "ts", "--format", "torchscript")
    # From where the command was given, the file is there.
    assert f"torch.jit.load('{tmp_path}/ts/model.ts')" in capsys.readouterr().out
    facts = json.loads((tmp_path / "ts/export.json").read_text())
    names = {path.name for path in (tmp_path / "ts").iterdir()}
    assert names == {*facts["files"], "export.json"}
    assert {"model.ts", "tokenizer.json", "config.json"} <= names
    assert facts["logits_difference"] < 1e-4
    assert facts["inputs"][0] == "input_ids" and facts["outputs"][0] == "logits"
    network, tokenizer = load(run, "cpu")
    ids = torch.tensor([tokenizer.encode("The owl went to the lake.")])
    script = open_graph(tmp_path / "ts/model.ts", network.spec, False)
    found = run_in_pieces(script, network.spec, ids, 3)
    torch.testing.assert_close(found, network.logits(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.covers("INF-07: export_for_inference")
def test_a_call_from_python_writes_what_the_command_writes(run, tmp_path):
    """Weights, configuration and tokenizer, to the byte; the result says what."""
    import lumina as package

    done = package.export_for_inference(run, tmp_path / "python", dtype="bfloat16")
    lumina("export", run, tmp_path / "command", "--dtype", "bfloat16")
    names = {file.name for file in (tmp_path / "command").iterdir()}
    assert {"config.json", "tokenizer.json"} <= names
    assert names == {file.name for file in (tmp_path / "python").iterdir()}
    for name in names - {"export.json"}:
        one, two = (tmp_path / side / name for side in ("python", "command"))
        assert one.read_bytes() == two.read_bytes(), name
    assert done.folder == tmp_path / "python" and done.bytes > 0
    assert done.small is None and done.difference is None


@pytest.mark.slow
@pytest.mark.covers(
    "INF-07: export_for_inference",
    "INF-07: quantize, bits 8",
    "INF-07: compile",
    "INF-07: format huggingface",
    "INF-07: onnx",
    "INF-07: torchscript",
    "INF-07: tokenizer and configuration included",
)
def test_exporting_for_inference_in_python(run, tmp_path):
    """8 bits, ONNX, TorchScript, compiled; tokenizer and configuration beside each."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    import lumina as package
    from lumina.infer.load import load

    network, tokenizer = load(run, "cpu")
    ids = torch.tensor([tokenizer.encode("The owl went to the lake.")])
    small = package.export_for_inference(run, tmp_path / "8", quantize=True, bits=8)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "8")
    difference = (theirs(ids).logits - network.logits(ids)).abs().max()
    assert 0 < difference < 4 * small.small.largest
    for name in ("onnx", "torchscript", "torch_export"):
        done = package.export_for_inference(
            run, tmp_path / name, format=name, compile=name == "torch_export"
        )
        assert done.difference < 1e-4
    for folder in ("8", "onnx", "torchscript", "torch_export"):
        back = transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        assert back("The owl", add_special_tokens=False).input_ids == tokenizer.encode(
            "The owl"
        )
        config = transformers.AutoConfig.from_pretrained(tmp_path / folder)
        assert config.vocab_size == network.spec.vocab_size


@pytest.mark.covers("INF-08: int8 inference")
def test_8_bits_say_what_they_cost_and_generate(run, tmp_path, tiny_corpus, capsys):
    lumina("export", run, tmp_path / "8", "--quantize")
    said = capsys.readouterr().out
    assert "the run's held-out text; perplexity" in said
    facts = json.loads((tmp_path / "8/export.json").read_text())["measured"]
    before, after = facts["perplexity"]
    assert 0 < facts["mean"] < facts["largest"] < facts["spread"]
    assert before != after and abs(after / before - 1) < 0.02
    lumina("export", run, tmp_path / "text", "--quantize", "--eval-data", tiny_corpus)
    assert "the text given" in capsys.readouterr().out
    # Of the whole text, as `lumina evaluate` has it, not of its first rows.
    measured = json.loads((tmp_path / "text/export.json").read_text())["measured"]
    for folder, perplexity in zip(
        (run, tmp_path / "text"), measured["perplexity"], strict=True
    ):
        lumina(
            "evaluate", folder, "--data", tiny_corpus, "--json",
            "--device", "cpu", "--precision", "fp32",
        )  # fmt: skip
        found = json.loads(capsys.readouterr().out)
        assert found["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    lumina(
        "generate", tmp_path / "8", "--prompt", "The owl", "--max-new-tokens", "4",
        "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    lumina("import", tmp_path / "8", tmp_path / "back")  # wide again, to train on


def test_choices_that_do_not_go_together_are_refused(run, tmp_path, capsys):
    for code, *words in (
        ("E005", "--format", "gguf"),
        ("E005", "--quantize", "--bits", "5"),
        ("E002", "--bits", "8"),
        ("E002", "--quantize", "--format", "onnx"),
        ("E002", "--compile"),
        ("E002", "--dtype", "float16", "--format", "torchscript"),
        ("E002", "--eval-data", "text"),
    ):
        assert main(["export", str(run), str(tmp_path / "x"), *words]) in (1, 2)
        assert code in capsys.readouterr().err, words
        assert not (tmp_path / "x").exists()


def test_layers_for_several_tokens_are_left_out_where_that_is_asked(
    tiny_corpus, tmp_path, capsys
):
    from safetensors.torch import load_file, save_file

    lumina(
        "train", "--preset", "debug", *TINY, *FAMILIES["deepseek_v3"], "--train-data",
        tiny_corpus, "--run-dir", tmp_path / "run", "--steps", "1",
    )  # fmt: skip
    lumina("export", tmp_path / "run", tmp_path / "hf")
    weights, config = tmp_path / "hf/model.safetensors", tmp_path / "hf/config.json"
    extra = {"model.layers.2.enorm.weight": torch.ones(32)}
    save_file(load_file(weights) | extra, weights)
    values = json.loads(config.read_text()) | {"num_nextn_predict_layers": 1}
    config.write_text(json.dumps(values))
    capsys.readouterr()
    assert main(["import", str(tmp_path / "hf"), str(tmp_path / "back")]) == 2
    assert "--drop-mtp" in capsys.readouterr().err
    lumina("import", tmp_path / "hf", tmp_path / "back", "--drop-mtp")
    lumina("generate", tmp_path / "back", "--prompt", "The", "--max-new-tokens", "2")
