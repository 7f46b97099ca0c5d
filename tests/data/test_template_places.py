"""Where a folder keeps its chat template, and which of several is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chat_templates import CHAT, CHATML, LLAMA3, folder_with, theirs_of
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

# Where a folder's template is, what is used, and a word of the remark on it.
RAG = "{% for m in messages %}rag {{ m.content }}{% endfor %}"
LIST = [{"name": "default", "template": CHATML}, {"name": "rag", "template": RAG}]
JINJA, MORE = "chat_template.jinja", "additional_chat_templates"
JSON = "chat_template.json"
PLACES: dict[str, tuple[object, dict[str, str], dict[str, str], str]] = {
    "config": (CHATML, {}, {"default": CHATML}, ""),
    "named in config": (LIST, {}, {"default": CHATML, "rag": RAG}, ""),
    "jinja": (None, {JINJA: CHATML}, {"default": CHATML}, ""),
    "jinja, the same in config": (CHATML, {JINJA: CHATML}, {"default": CHATML}, ""),
    "jinja against config": (
        LLAMA3,
        {JINJA: CHATML},
        {"default": CHATML},
        "tokenizer_config.json holds another chat template",
    ),
    "jinja against names": (
        LIST,
        {JINJA: CHATML},
        {"default": CHATML},
        "tokenizer_config.json holds another chat template",
    ),
    "additional": (
        None,
        {JINJA: CHATML, f"{MORE}/rag.jinja": RAG},
        {"default": CHATML, "rag": RAG},
        "",
    ),
    "additional alone": (
        CHATML,
        {f"{MORE}/rag.jinja": RAG},
        {"rag": RAG},
        "tokenizer_config.json holds another chat template",
    ),
    "additional against jinja": (
        None,
        {JINJA: LLAMA3, f"{MORE}/default.jinja": CHATML},
        {"default": CHATML},
        "default.jinja is another chat template than chat_template.jinja",
    ),
    "json against config": (
        CHATML,
        {JSON: json.dumps({"chat_template": LLAMA3})},
        {"default": CHATML},
        "chat_template.json holds another chat template",
    ),
    "json, the same in config": (
        CHATML,
        {JSON: json.dumps({"chat_template": CHATML})},
        {"default": CHATML},
        "",
    ),
}


def written_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("place", PLACES)
def test_a_template_is_found_where_transformers_finds_it(
    place: str, tmp_path: Path
) -> None:
    declared, files, used, told = PLACES[place]
    folder = written_files(folder_with(declared, tmp_path / "theirs"), files)
    mine = Tokenizer.from_path(folder)
    assert mine.templates is not None and mine.templates.named == used
    assert (told in "; ".join(mine.notes)) if told else not mine.notes
    mine.save(tmp_path / "ours")
    for theirs in (theirs_of(folder), theirs_of(tmp_path / "ours")):
        found = theirs.chat_template
        assert (found if isinstance(found, dict) else {"default": found}) == used
        if "default" in used:
            ids = theirs.apply_chat_template(CHAT, return_dict=False)
            assert ids == mine.encode_chat(CHAT)[0]
        else:
            with pytest.raises(ValueError, match="template"):
                theirs.apply_chat_template(CHAT)
            with pytest.raises(LuminaError, match="none of the chat templates"):
                mine.encode_chat(CHAT)


def test_a_template_of_processors_is_used_where_there_is_no_other(
    tmp_path: Path,
) -> None:
    files = {JSON: json.dumps({"chat_template": CHATML})}
    folder = written_files(folder_with(None, tmp_path), files)
    mine = Tokenizer.from_path(folder)
    assert mine.templates is not None and mine.templates.named == {"default": CHATML}
    assert "chat_template.json" in mine.notes[0]


def test_an_empty_template_is_none(tmp_path: Path) -> None:
    """It would ask the model with nothing at all."""
    tokenizer = Tokenizer.from_path(folder_with(" \n", tmp_path / "model"))
    assert tokenizer.templates is None
    assert any("template is empty" in note for note in tokenizer.notes)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({JSON: "{"}, "E101"),
        ({JSON: json.dumps({"chat_template": [1]})}, "E101"),
        ({"tokenizer_config.json": json.dumps({"chat_template": 5})}, "E101"),
    ],
)
def test_what_is_no_template_is_refused(
    files: dict[str, str], code: str, tmp_path: Path
) -> None:
    folder = written_files(folder_with(None, tmp_path), files)
    with pytest.raises(LuminaError) as caught:
        Tokenizer.from_path(folder)
    assert caught.value.code == code
    (folder / JINJA).write_bytes(b"\xff\xfe{")
    with pytest.raises(LuminaError) as caught:
        Tokenizer.from_path(written_files(folder, {}))
    assert caught.value.code in ("E103", code)
