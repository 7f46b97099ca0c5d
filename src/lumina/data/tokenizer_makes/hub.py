"""A tokenizer of the Hugging Face hub: `hf:OWNER/NAME`, or OWNER/NAME."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from lumina.data.tokenizer_makes.make import Make, Stored, read_stored
from lumina.errors import LuminaError
from lumina.threads import within

_MARK = "hf:"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_MARKED = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")

_WANTED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "config.json", "generation_config.json", "tokenizer.model", "*.tiktoken",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
"""No code and no weights."""

_PATIENCE = 10.0
"""Seconds for one answer of the hub."""

_DEADLINE = 25.0
"""Seconds until the hub has to have said what it holds under a name."""


def _named(name: str) -> Stored | None:
    marked = name.startswith(_MARK)
    plain = name.removeprefix(_MARK).removeprefix("//")
    if not (_MARKED if marked else _NAME).fullmatch(plain):
        return None
    repository, _, revision = plain.partition("@")
    folder, note = _fetch(repository, revision or None, name)
    stored = read_stored(folder)
    return replace(stored, notes=(*stored.notes, note))


def _fetch(repository: str, revision: str | None, name: str) -> tuple[Path, str]:
    """The folder in the hub's cache, and a note of where it comes from."""
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise LuminaError(
            "E104",
            f"there is no path {name}, and without huggingface_hub names of the "
            "Hugging Face hub mean nothing",
            "name a folder, or: pip install 'luminaai[data]'",
        ) from None

    def ask() -> None:
        HfApi().model_info(repository, revision=revision, timeout=_PATIENCE)

    def fetch(*, from_cache: bool) -> tuple[Path, str]:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(_WANTED),
            etag_timeout=_PATIENCE,
            local_files_only=from_cache,
        )
        commit = Path(folder).name
        return Path(folder), f"{repository} of the Hugging Face hub, commit {commit}"

    try:
        within(_DEADLINE, ask)
        return fetch(from_cache=False)
    except HfHubHTTPError as error:  # the hub was reached, and has no such thing
        raise _unreachable(name, error) from None
    except Exception as error:  # the hub's library passes on those of another library
        reason = error
    try:
        folder, where = fetch(from_cache=True)
    except Exception:  # whatever the cache lacks, the hub's answer is the reason
        raise _unreachable(name, reason) from None
    return folder, f"{where}, from its cache: the hub cannot be reached"


def _unreachable(name: str, error: BaseException) -> LuminaError:
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    return LuminaError(
        "E107",
        f"there is no path {name}, and no tokenizer of this name could be fetched from "
        f"the Hugging Face hub: {said}",
        "check the name or path. A model behind an agreement needs the token of an "
        "account that has accepted it, in HF_TOKEN. Offline, fetch its folder "
        "beforehand: hf download OWNER/NAME --local-dir FOLDER",
    )


MAKE = Make(
    "hub",
    "",
    find=lambda folder: None,
    claims=lambda path: False,
    read=read_stored,
    named=_named,
)
