"""Begin and end tokens of tokenizers of several makes, as transformers sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend

import lumina
from foreign_tokenizers import foreign_tokenizer
from lumina.data.documents import Document
from lumina.data.records import Message
from lumina.data.store import TokenStore
from lumina.data.tokenise import encode_documents
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.export import export_for_inference
from lumina.infer.sampling import Sampling
from lumina.infer.text import complete
from lumina.measure.text_bits import text_bits
from lumina.model.build import build_network
from networks import tiny_spec
from tiny_runs import Runs
from tokenizer_folders import GLM, MAKES, TEXT, write

CHAT: list[Message] = [
    {"role": "user", "content": "return it"},
    {"role": "assistant", "content": "the dog"},
]
WITHOUT = [name for name, make in MAKES.items() if make.begins is None]
EXACT = [
    name
    for name, make in MAKES.items()
    if not make.note or make.note.startswith("add_bos_token")
]


def loaded(name: str, folder: Path) -> Tokenizer:
    return Tokenizer.from_path(write(MAKES[name], folder / "theirs"))


def ids_of(tokenizer: Tokenizer, *names: str) -> list[int]:
    return [tokenizer.backend.token_to_id(name) for name in names]


def files_of(folder: Path) -> list[dict[str, Any]]:
    names = ("config.json", "generation_config.json")
    return [json.loads((folder / name).read_text()) for name in names]


@pytest.mark.parametrize("name", MAKES)
def test_the_tokens_are_those_that_the_files_name(name: str, tmp_path: Path) -> None:
    make, mine = MAKES[name], loaded(name, tmp_path)
    begin = ids_of(mine, make.begins) if make.begins else []
    if name == "glm":
        begin = ids_of(mine, *GLM[:2])
    text = mine.encode(TEXT)
    assert mine.prompt(TEXT) == [*begin, *text]
    assert mine.begin == begin
    assert mine.decode_after(mine.prompt(TEXT), text) == TEXT
    assert mine.bos_id == (begin[0] if begin else None)
    ends = ids_of(mine, *make.ends)
    assert mine.eos_id == ends[0]
    assert mine.stop_ids == set(ends)
    assert (make.note in "; ".join(mine.notes)) if make.note else not mine.notes

    # Documents and conversations begin in the same way.
    chatty = mine.with_chat()
    chat, _ = chatty.encode_chat(CHAT)
    assert chat[: len(begin) + 1] == [*begin, *ids_of(chatty, "<|user|>")]
    [one] = encode_documents(
        [(False, Document(TEXT, None, "", 1))], mine, loss_on="all", threads=0
    )
    assert one.ids.tolist() == [*begin, *text, ends[0]]
    unlearnt = max(1, len(begin))
    bears = [False] * unlearnt + [True] * (len(one.ids) - unlearnt)
    assert one.mask.tolist() == bears
    first = 0 if begin else len(mine.decode(text[:1]))
    assert one.loss_bytes == len(TEXT) - first


@pytest.mark.parametrize("name", EXACT)
def test_they_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    make, mine = MAKES[name], loaded(name, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    stored = json.loads((tmp_path / "theirs" / "tokenizer.json").read_text())
    made = json.loads(theirs.backend_tokenizer.to_str())
    release = tuple(map(int, transformers.__version__.split(".")[:2]))
    if release < (5, 23) and made["pre_tokenizer"] != stored["pre_tokenizer"]:
        # 5.17 does so for LlamaTokenizer, 5.23 keeps what stands in the file.
        pytest.skip("this transformers has other rules than tokenizer.json")
    assert mine.eos_id == theirs.eos_token_id
    call = theirs(TEXT).input_ids
    if call[-1] == theirs.eos_token_id and "</s>" in str(make.template):
        call.pop()  # no text to go on from ends
    assert mine.prompt(TEXT) == call


CLASSES = (
    "PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer",
    "CodeLlamaTokenizer", "GemmaTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizerFast",
    "CohereTokenizer", None,
)  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("put", [False, True])
@pytest.mark.parametrize("asked", [None, False, True])
def test_texts_begin_as_with_every_class_of_transformers(
    name: str | None, put: bool, asked: bool | None, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    folder = foreign_tokenizer("first", tmp_path)
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not put:
        state = json.loads(file.read_text())
        file.write_text(json.dumps({**state, "post_processor": None}))
    config = {**json.loads(settings.read_text()), "tokenizer_class": name}
    if name is None:
        del config["tokenizer_class"]
    if asked is not None:
        config["add_bos_token"] = asked
    settings.write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    begins = theirs("fox").input_ids[0] == theirs.bos_token_id
    mine = Tokenizer.from_path(folder)
    assert mine.begin == ([theirs.bos_token_id] if begins else [])


@pytest.mark.parametrize("name", [*MAKES, "own"])
@pytest.mark.parametrize("chat", [False, True])
def test_transformers_calls_what_is_saved_as_a_prompt(
    name: str, chat: bool, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    own = name == "own"
    mine = Tokenizer.train([TEXT] * 4, 300) if own else loaded(name, tmp_path)
    mine = mine.with_chat() if chat else mine
    folder = tmp_path / "saved"
    mine.save(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "", " a"):
        assert theirs(text).input_ids == mine.prompt(text)
        plain = theirs(text, add_special_tokens=False).input_ids
        assert plain == mine.encode(text)
    pair = theirs("a", "b").input_ids
    assert pair == [*mine.prompt("a"), *mine.prompt("b")]
    assert Backend.from_file(str(folder / "tokenizer.json")).encode(
        TEXT
    ).ids == mine.prompt(TEXT)  # programs that read tokenizer.json alone
    if mine.has_chat:
        template = theirs.apply_chat_template
        assert template(CHAT, return_dict=False) == mine.encode_chat(CHAT)[0]
    again = Tokenizer.from_path(folder)
    assert again.fingerprint == mine.fingerprint
    assert again.prompt(TEXT) == mine.prompt(TEXT)
    assert again.stop_ids == mine.stop_ids
    assert not again.notes


def test_own_tokenizers_have_the_fingerprint_they_had(tmp_path: Path) -> None:
    """So that runs of earlier versions, which wrote no template, go on."""
    mine = Tokenizer.train([TEXT] * 4, 300)
    mine.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    state = json.loads(file.read_text())
    assert state["post_processor"]["type"] == "TemplateProcessing"
    file.write_text(json.dumps({**state, "post_processor": None}))
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["add_bos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    old = Tokenizer.from_path(tmp_path)
    assert old.fingerprint == mine.fingerprint
    assert old.bos_id == old.eos_id == 0
    assert old.encode_chat(CHAT) == mine.encode_chat(CHAT)


@pytest.mark.parametrize("name", ["llama-3", "qwen", "own"])
def test_a_run_and_its_export_keep_every_end_token(name: str, runs: Runs) -> None:
    own = name == "own"
    folder = None if own else str(write(MAKES[name], runs.folder / "theirs"))
    size = 300 if own else None
    run = runs.train(tokenizer=folder, tokenizer_vocab_size=size, steps=1)
    mine = Tokenizer.from_path(run.folder)
    out = runs.folder / "out"
    export_for_inference(run.folder, out)
    ends = [0, 4] if own else ids_of(mine, *MAKES[name].ends)
    for said in files_of(out):
        found = said["eos_token_id"]
        found = found if isinstance(found, list) else [found]
        assert found[0] == mine.eos_id and set(found) == set(ends)
        assert said["bos_token_id"] == mine.bos_id
    assert Tokenizer.from_path(out).stop_ids == set(ends)


@pytest.mark.parametrize("name", ["gpt-2", "llama-3", "glm"])
def test_every_door_begins_as_the_plain_call(name: str, runs: Runs) -> None:
    """Training, generation, measures, and the exported folder."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    theirs = write(MAKES[name], runs.folder / "theirs")
    call = transformers.AutoTokenizer.from_pretrained(theirs)
    data = runs.folder / "data.txt"
    data.write_text("<|endoftext|>".join([TEXT] * 30))
    cache = runs.folder / "cache"
    runs.monkeypatch.setenv("LUMINA_CACHE", str(cache))
    leaves = {"tokenizer": str(theirs), "tokenizer_vocab_size": None}
    run = runs.train(**leaves, train_data=(str(data),), steps=1)
    stores = list(cache.glob("stores/*/train"))
    trained = [TokenStore.open(folder) for folder in stores]
    begin = call(TEXT).input_ids
    ends = ids_of(Tokenizer.from_path(theirs), MAKES[name].ends[0])
    for store in trained:
        first = store.tokens[: int(store.starts[1])]
        assert first.tolist() == [*call(TEXT.strip()).input_ids, *ends]

    network, tokenizer = lumina.load(run.folder, device="cpu")
    read: list[list[int]] = []

    def remember(_: object, args: tuple[torch.Tensor, ...]) -> None:
        read.append(args[0].reshape(-1, args[0].shape[-1])[0].tolist())

    network.backbone.embedding.register_forward_pre_hook(remember)
    complete(network, tokenizer, [TEXT], Sampling(0.0), max_new_tokens=1)
    assert read[0] == begin
    read.clear()
    text_bits(network, tokenizer, [TEXT], context=64)
    assert read[0] == begin[: len(read[0])] and len(read[0]) > 8

    read.clear()
    lumina.evaluate((network, tokenizer), str(data), batch_size=1, seq_length=64)
    assert any(row[: len(begin) - 2] == begin[:-2] for row in read)

    export_for_inference(run.folder, runs.folder / "out")
    exported = transformers.AutoTokenizer.from_pretrained(runs.folder / "out")
    assert exported(TEXT).input_ids == begin


def test_a_run_keeps_the_begin_that_it_was_begun_with(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions before began texts with a begin token that was only named."""
    from lumina.data import prepare, tokenizer_files
    from lumina.train import remembered

    folder = write(MAKES["gpt-2"], runs.folder / "theirs")
    leaves = {"tokenizer": str(folder), "tokenizer_vocab_size": None}
    cache = runs.folder / "cache"
    monkeypatch.setenv("LUMINA_CACHE", str(cache))
    begun = {**leaves, "run_dir": str(runs.folder / "run"), "auto_resume": True}
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_files, "_before", lambda _, bos, *__: (bos,))
        patch.setattr(prepare, "ENCODING_RULES", 3)
        patch.setattr(remembered, "ENCODING_RULES", 3)
        runs.train(**begun, steps=2)
        old = Tokenizer.from_path(folder).prompt(TEXT)
    resumed = runs.train(**begun, steps=4)
    assert [row["step"] for row in resumed.rows] == [1, 2, 3, 4]
    assert Tokenizer.from_path(resumed.folder).prompt(TEXT) == old
    # Another run from the same folder begins as transformers does, with new tokens.
    fresh = runs.train(**leaves, run_dir=str(runs.folder / "fresh"), steps=1)
    assert Tokenizer.from_path(fresh.folder).prompt(TEXT) == old[1:]
    assert len(list(cache.glob("stores/*/train"))) == 3


def test_a_run_tells_of_a_missing_end_token(runs: Runs) -> None:
    folder = write(MAKES["end token null"], runs.folder / "theirs")
    run = runs.train(tokenizer=str(folder), tokenizer_vocab_size=None, steps=1)
    told = [event["message"] for event in run.events if event["kind"] == "tokenizer"]
    assert any("null" in message and "</s>" in message for message in told)


@pytest.mark.parametrize("wrong", ["</s>", True, 1.5])
def test_an_end_token_that_is_no_id_is_told(tmp_path: Path, wrong: object) -> None:
    foreign_tokenizer("first", tmp_path / "t")
    config = json.dumps({"eos_token_id": [wrong, None]})
    (tmp_path / "t" / "config.json").write_text(config)
    notes = Tokenizer.from_path(tmp_path / "t").notes
    assert [
        note for note in notes if f"{wrong!r} of config.json is no token id" in note
    ]


@pytest.mark.parametrize("name", WITHOUT)
def test_a_prompt_needs_a_token(name: str, tmp_path: Path) -> None:
    mine = loaded(name, tmp_path)
    network = build_network(tiny_spec(vocab_size=300, padded_vocab_size=320)).eval()
    with pytest.raises(LuminaError) as caught:
        complete(network, mine, [""], Sampling(0.0), max_new_tokens=2)
    assert caught.value.code == "E105"
    [done] = complete(network, mine, ["dog"], Sampling(0.0), max_new_tokens=2)
    assert done.ids or done.reason == "stop"
    # Measures take what comes before the second token.
    assert text_bits(network, mine, ["dog and fox"], context=16) > 0


def test_a_run_with_another_begin_is_not_gone_on_with(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such runs were begun by versions where the end token stood before texts."""
    from lumina.data import prepare, tokenise
    from lumina.train import remembered

    folder = write(MAKES["qwen"], runs.folder / "theirs")
    leaves = {
        "tokenizer": str(folder), "tokenizer_vocab_size": None,
        "run_dir": str(runs.folder / "run"), "auto_resume": True,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "begin", property(lambda mine: [mine.eos_id]))
        patch.setattr(tokenise, "ENCODING_RULES", 2)
        patch.setattr(prepare, "ENCODING_RULES", 2)
        patch.setattr(remembered, "ENCODING_RULES", 2)
        runs.train(**leaves, steps=2)
    with pytest.raises(LuminaError) as caught:
        runs.train(**leaves, steps=4)
    assert caught.value.code == "E002"
    assert "earlier version" in caught.value.message
    assert "begin token" in caught.value.message


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)
