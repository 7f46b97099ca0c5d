"""Vocabularies of every make give the ids of the programs that they come from."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import struct
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_makes import hub
from lumina.errors import LuminaError

BETWEEN = "\n__ggml_vocab_test__\n"

# A vocabulary below ../shared/data/tokenizers, and the vectors of llama.cpp for it.
VECTORS = [
    ("gpt2/gpt2_tokenizer.json", "gpt-2"),
    ("gpt2/vocab.bpe", "gpt-2"),
    ("tiktoken/r50k_base.tiktoken", "gpt-2"),
    ("llamacpp_vocab/ggml-vocab-gpt-2.gguf", "gpt-2"),
    ("llamacpp_vocab/ggml-vocab-gpt-neox.gguf", "mpt"),  # MPT's is GPT-NeoX's
    ("llamacpp_vocab/ggml-vocab-deepseek-coder.gguf", "deepseek-coder"),
    pytest.param(
        "llamacpp_vocab/ggml-vocab-deepseek-llm.gguf",
        "deepseek-llm",
        marks=pytest.mark.slow,
    ),
    ("llamacpp_vocab/ggml-vocab-llama-spm.gguf", "llama-spm"),
    pytest.param("qwen2", "qwen2", marks=pytest.mark.slow),
]
# Not StarCoder's, which lacks a byte, nor DeepSeek's: they declare letters such as À as
# tokens for the bytes of that number.
BYTE_COMPLETE = [
    "tiktoken/r50k_base.tiktoken",
    "llamacpp_vocab/ggml-vocab-llama-spm.gguf",
    pytest.param("gpt2", marks=pytest.mark.slow),
    pytest.param("llamacpp_vocab/ggml-vocab-gpt-neox.gguf", marks=pytest.mark.slow),
    pytest.param("mistral/tokenizer.model.v1", marks=pytest.mark.slow),
    pytest.param(
        "mistral/mistral_instruct_tokenizer_240323.model.v3", marks=pytest.mark.slow
    ),
    pytest.param("qwen2", marks=pytest.mark.slow),
    pytest.param("tiktoken/cl100k_base.tiktoken", marks=pytest.mark.slow),
    pytest.param("tiktoken/o200k_base.tiktoken", marks=pytest.mark.slow),
]
ODD = [
    " ", "\n", "\r\n", "\t", "a", "A", "'s", "'LL", "é", "ß", "漢", "あ", "़", "1", "½",
    ".", "!!", "-", "=", "/", "\u00a0", "\u3000", "\u2028", "😀", "👍🏽", "е", "İ", "ǅ",
    "\u200b", "    ", " the", "</s>", "<s>", "<unk>", "<0x41>", "[INST]",
    "<|endoftext|>",
]  # fmt: skip
texts = st.lists(
    st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"]), max_size=24
).map("".join)
runs_of_one = st.builds(
    lambda unit, times: unit * times, st.sampled_from(ODD), st.integers(1, 90)
)
several = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@lru_cache(maxsize=3)
def loaded(path: Path) -> Tokenizer:
    return Tokenizer.from_path(path)


@pytest.mark.covers("TOK-01", "TOK-02", "TOK-03: named external tokenizers")
@pytest.mark.parametrize(("vocabulary", "vectors"), VECTORS)
def test_every_vector_of_llama_cpp_is_met(
    shared_data: Path, vocabulary: str, vectors: str
) -> None:
    folder = shared_data / "tokenizers"
    tokenizer = loaded(folder / vocabulary)
    stem = folder / "llamacpp_vocab" / f"ggml-vocab-{vectors}.gguf"
    inputs = Path(f"{stem}.inp").read_bytes().decode().split(BETWEEN)
    expected = [
        [int(word) for word in line.split()]
        for line in Path(f"{stem}.out").read_text().split("\n")
    ]
    assert len(inputs) > 40 and len(expected) >= len(inputs)
    for text, ids in zip(inputs, expected, strict=False):
        assert tokenizer.encode(text) == ids, repr(text)


@pytest.mark.parametrize("vocabulary", BYTE_COMPLETE)
def test_any_text_comes_back(shared_data: Path, vocabulary: str) -> None:
    tokenizer = loaded(shared_data / "tokenizers" / vocabulary)
    mark = "▁" if "spm" in vocabulary or "model" in vocabulary else None

    @several
    @given(texts | runs_of_one)
    def check(text: str) -> None:
        if mark is not None:  # the mark and a space are one to SentencePiece
            text = text.replace(mark, " ")
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & tokenizer.stop_ids

    check()
    whole = bytes(range(256)).decode("latin-1")
    assert tokenizer.decode(tokenizer.encode(whole)) == whole


@pytest.mark.parametrize(
    "name",
    [
        "r50k_base",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("p50k_base", "p50k_edit", "cl100k_base", "o200k_base")
        ),
    ],
)
@pytest.mark.covers("TOK-01")
def test_an_encoding_of_tiktoken_is_found_by_its_name(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    file = "p50k_base" if name == "p50k_edit" else name
    address = f"https://openaipublic.blob.core.windows.net/encodings/{file}.tiktoken"
    source = shared_data / "tokenizers" / "tiktoken" / f"{file}.tiktoken"
    shutil.copy(source, tmp_path / hashlib.sha1(address.encode()).hexdigest())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    theirs = tiktoken.get_encoding(name)
    mine = Tokenizer.from_path(name)
    assert mine.vocab_size == theirs.n_vocab
    assert mine.eos_id == theirs.eot_token
    for token in theirs.special_tokens_set:
        assert mine.token_id(token) == theirs.encode_single_token(token)

    @several
    @given(texts | runs_of_one)
    def check(text: str) -> None:
        assert mine.encode(text) == theirs.encode(text, disallowed_special=())

    check()
    book = (shared_data / "text" / "tinyshakespeare.txt").read_text()[:100_000]
    assert mine.encode(book) == theirs.encode(book)


def test_a_name_that_is_not_in_the_cache_says_what_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with pytest.raises(LuminaError, match=r"E104.*cl100k_base") as caught:
        Tokenizer.from_path("cl100k_base")
    assert "encodings/cl100k_base.tiktoken" in caught.value.hint


def test_ranks_of_an_unknown_encoding_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.tiktoken"
    path.write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(LuminaError, match=r"E101.*not known"):
        Tokenizer.from_path(path)
    path = tmp_path / "cl100k_base.tiktoken"
    path.write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(LuminaError, match="its content is another one"):
        Tokenizer.from_path(path)


def sentence_piece(folder: Path, **options: Any) -> Path:
    """Train a small model of SentencePiece; the path of its file."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    written = io.BytesIO()
    lines = ["It is a truth universally acknowledged", "Größe über 漢字 aaa --- 12 é"]
    options = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 340, **options}
    trainer.train(
        sentence_iterator=iter(lines * 30),
        model_writer=written,
        normalization_rule_name=options.pop("rule", "identity"),
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    path = folder / "tokenizer.model"
    path.write_bytes(written.getvalue())
    return path


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("fallback", [True, False])
def test_ids_of_bpe_are_those_of_sentencepiece(
    tmp_path: Path, prefix: bool, fallback: bool
) -> None:
    path = sentence_piece(
        tmp_path,
        byte_fallback=fallback,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=prefix,
    )
    _check_against_sentencepiece(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.model.v1",
        "mistral_instruct_tokenizer_240216.model.v2",
        "mistral_instruct_tokenizer_240323.model.v3",
        "mistral_instruct_tokenizer_241114.model.v7",
    ],
)
@pytest.mark.covers("TOK-03: named external tokenizers")
def test_ids_of_mistral_are_those_of_sentencepiece(
    shared_data: Path, name: str
) -> None:
    pytest.importorskip("sentencepiece")
    path = shared_data / "tokenizers" / "mistral" / name
    _check_against_sentencepiece(path)
    tokenizer = loaded(path)
    assert tokenizer.eos_id == tokenizer.token_id("</s>") == 2


def _check_against_sentencepiece(path: Path) -> None:
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    mine = Tokenizer.from_path(path)
    assert mine.vocab_size == theirs.vocab_size()

    @several
    @given(texts | runs_of_one)
    def check(text: str) -> None:
        assert mine.encode(text) == theirs.encode(text)

    check()


def test_unigram_gives_the_ids_of_sentencepiece_and_hides_special_pieces(
    tmp_path: Path,
) -> None:
    path = sentence_piece(tmp_path, model_type="unigram")
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    mine = Tokenizer.from_path(path)
    for text in (
        "It is a truth. </s> <s> <0x41> <unk>",
        "  Größe 漢字漢  x",
        "",
        "aaa",
    ):
        assert mine.encode(text) == theirs.encode(text), text
    assert any("equally likely" in note for note in mine.notes)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "char"}, "models of the type Char"),
        ({"treat_whitespace_as_suffix": True}, "the space behind a word"),
    ],
)
def test_models_of_sentencepiece_that_would_give_other_ids_are_refused(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LuminaError, match=f"E101.*{reason}"):
        Tokenizer.from_path(sentence_piece(tmp_path, **options))


def test_a_model_of_sentencepiece_is_exported_for_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.from_path(sentence_piece(tmp_path))
    tokenizer.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "It is  Größe 漢"
    assert theirs(text)["input_ids"] == tokenizer.prompt(text)
    again = Tokenizer.from_path(tmp_path / "saved")
    assert again.encode(text) == tokenizer.encode(text)
    assert again.eos_id == tokenizer.eos_id == 2


@pytest.mark.covers("TOK-03: named external tokenizers")
def test_what_a_gguf_file_says_of_its_tokens_is_kept(shared_data: Path) -> None:
    folder = shared_data / "tokenizers" / "llamacpp_vocab"
    phi = loaded(folder / "ggml-vocab-phi-3.gguf")
    assert (phi.begin, phi.eos_id, phi.vocab_size) == ([1], 32000, 32064)
    chat = [{"role": "user", "content": "Hi"}]
    ids = phi.chat_prompt(chat)  # type: ignore[arg-type]
    assert phi.token_id("<|user|>") in ids and phi.token_id("<|assistant|>") in ids
    assert loaded(folder / "ggml-vocab-gpt-2.gguf").begin == []


def test_a_byte_that_a_vocabulary_lacks_is_said(shared_data: Path) -> None:
    folder = shared_data / "tokenizers" / "llamacpp_vocab"
    lacking = loaded(folder / "ggml-vocab-starcoder.gguf")
    assert any("no token for the byte 0xF1" in note for note in lacking.notes)
    whole = loaded(folder / "ggml-vocab-gpt-2.gguf")
    assert not any("no token" in note for note in whole.notes)


def gguf(**values: object) -> bytes:
    """A GGUF file of nothing but metadata: texts and lists of texts."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    parts = [b"GGUF", struct.pack("<IQQ", 3, 0, len(values))]
    for key, value in values.items():
        parts.append(text("tokenizer.ggml." + key))
        if isinstance(value, str):
            parts += [struct.pack("<I", 8), text(value)]
        else:
            assert isinstance(value, list)
            parts += [struct.pack("<IIQ", 9, 8, len(value)), *map(text, value)]
    return b"".join(parts)


SMALL = gguf(
    model="gpt2", pre="gpt-2", tokens=["a", "b", "ab"], merges=["a b"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gguf(model="bert", tokens=["a"]), "type 'bert'"),
        (gguf(model="gpt2", tokens=["a"]), "no type of cutting"),
        (gguf(model="gpt2", pre="kimi-k2", tokens=["a"]), "type 'kimi-k2'"),
        (gguf(model="gpt2", pre="gpt-2", tokens=["a", "a"]), "occurs twice"),
        (gguf(model="gpt2", pre="gpt-2", tokens=["a"], merges=["a b"]), "'a b'"),
        (SMALL[:4] + struct.pack("<I", 9) + SMALL[8:], "version is 9"),
        (SMALL[:16] + struct.pack("<Q", 2**60) + SMALL[24:], "entries"),
        (SMALL[:24] + struct.pack("<Q", 2**62) + SMALL[32:], "are announced"),
    ],
)
def test_gguf_files_that_cannot_be_read_are_refused(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "vocab.gguf"
    path.write_bytes(data)
    with pytest.raises(LuminaError, match=f"E101.*{reason}"):
        Tokenizer.from_path(path)


@pytest.mark.parametrize("make", ["gguf", "model"])
def test_damaged_vocabularies_end_in_an_error_that_says_so(
    tmp_path: Path, make: str
) -> None:
    whole = SMALL if make == "gguf" else sentence_piece(tmp_path).read_bytes()
    path = tmp_path / f"vocab.{make}"

    @settings(several, max_examples=60)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        at = data.draw(st.integers(1, len(whole) - 1))
        bad = whole[:at] + data.draw(st.binary(max_size=9))
        if data.draw(st.booleans()):
            bad += whole[at + 4 :]
        path.write_bytes(bad)
        try:
            Tokenizer.from_path(path).encode("abc")
        except LuminaError as error:
            assert error.code in ("E101", "E105")

    check()


def test_a_folder_with_several_vocabularies_asks_for_one(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(SMALL)
    with pytest.raises(LuminaError, match=r"E005.*one\.gguf, two\.gguf"):
        Tokenizer.from_path(tmp_path)
    (tmp_path / "two.gguf").unlink()
    assert Tokenizer.from_path(tmp_path).encode("ab") == [2]


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as fetching one model needs."""

    folder: Path
    commit = "c0ffee" + "0" * 34
    seen: ClassVar[list[str | None]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.seen.append(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/mine"):
            files = sorted(self.folder.iterdir())
            siblings = [{"rfilename": file.name} for file in files]
            model = {"id": "me/mine", "sha": self.commit, "siblings": siblings}
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"}
                for f in files
            ]
            data = json.dumps(tree if "/tree/" in path else model).encode()
            kind = "application/json"
        elif (file := self.folder / path.rpartition("/")[2]).is_file():
            data, kind = file.read_bytes(), "application/octet-stream"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub's library with an empty cache and an address where nothing listens."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return constants


@pytest.mark.covers("TOK-04: hub id")
def test_a_name_of_the_hub_is_fetched_and_later_found_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_cache: Any
) -> None:
    made = Tokenizer.train(["once upon a time " * 20], 280)
    made.save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not wanted")
    monkeypatch.setattr(Hub, "folder", tmp_path / "model", raising=False)
    monkeypatch.setattr(Hub, "seen", [])
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with monkeypatch.context() as patch:
        address = f"http://127.0.0.1:{server.server_port}"
        pages = address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(hub_cache, "ENDPOINT", address)
        patch.setattr(hub_cache, "HUGGINGFACE_CO_URL_TEMPLATE", pages)
        found = Tokenizer.from_path("hf:me/mine")
        server.shutdown()
    assert found.fingerprint == made.fingerprint
    assert any(Hub.commit in note for note in found.notes)
    assert "Bearer hf_secret" in Hub.seen
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    later = Tokenizer.from_path("me/mine")  # the server has gone
    assert later.fingerprint == made.fingerprint
    assert any("cannot be reached" in note for note in later.notes)


@pytest.mark.covers("TOK-04: hub id")
@pytest.mark.parametrize("name", ["hf:gpt2", "nowhere-org/model", "a/b@main"])
def test_a_hub_that_cannot_be_reached_is_an_error(name: str, hub_cache: Any) -> None:
    with pytest.raises(LuminaError, match=f"E107.*no path {name}"):
        Tokenizer.from_path(name)


def test_a_hub_that_never_answers_is_an_error_in_time(
    monkeypatch: pytest.MonkeyPatch, hub_cache: Any
) -> None:
    assert hub._DEADLINE < 30
    monkeypatch.setattr(hub, "_DEADLINE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(hub_cache, "ENDPOINT", f"http://127.0.0.1:{port}")
        with pytest.raises(LuminaError, match=r"E107.*no answer within"):
            Tokenizer.from_path("hf:me/mine")
