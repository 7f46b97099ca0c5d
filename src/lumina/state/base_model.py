"""What a model of another kind can take from a causal language model.

Its tokenizer and its table of token vectors; nothing else fits. The model may be a run,
a checkpoint, a Hugging Face folder of any architecture (its config.json is not asked
what it is), or the name of one on the Hugging Face hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lumina.errors import LuminaError
from lumina.state.huggingface.reading import read_embedding
from lumina.state.manifest import MANIFEST_NAME
from lumina.state.run_directory import RunDirectory
from lumina.state.weights import open_weights

EMBEDDING = "backbone.embedding.weight"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WANTED = (
    "config.json", "generation_config.json", "special_tokens_map.json",
    "*.safetensors", "*.safetensors.index.json", "tokenizer*", "chat_template*",
    "additional_chat_templates/*",
)  # fmt: skip


@dataclass(frozen=True)
class BaseModel:
    """A causal language model, as far as it is taken over.

    Attributes:
        name: as it was asked for.
        tokenizer: the folder of its tokenizer, or None.
        embedding: [V, D] float32, one row for each of its tokens.
        what: the tensor the rows come from.
    """

    name: str
    tokenizer: Path | None
    embedding: Tensor
    what: str


def open_base_model(name: str) -> BaseModel:
    """Read what can be taken from the model called `name`: a path, or a hub name.

    Raises:
        LuminaError: E104 nothing there, E107 the hub cannot be reached, E101 and E303
            as for any weights, E102 no table of token vectors.
    """
    folder = Path(name).expanduser()
    if not folder.exists():
        folder = _from_hub(name)
    if (folder / MANIFEST_NAME).is_file() or RunDirectory(folder).is_run:
        weights = open_weights(folder)
        try:
            embedding = weights.source.tensor(EMBEDDING).float().clone()
        finally:
            weights.close()
        known = embedding[: weights.spec.vocab_size]  # without the padding
        return BaseModel(name, weights.tokenizer, known, EMBEDDING)
    what, embedding = read_embedding(folder)
    has_tokenizer = (folder / "tokenizer.json").is_file()
    return BaseModel(name, folder if has_tokenizer else None, embedding, what)


def _from_hub(name: str) -> Path:
    """The folder of a model on the hub: from its cache, or fetched into it."""
    if not _HUB_NAME.fullmatch(name):
        raise LuminaError("E104", f"{name} does not exist", "check the path")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise LuminaError(
            "E104",
            f"there is no folder {name}, and without huggingface_hub names of the "
            "Hugging Face hub mean nothing",
            "name a folder, or: pip install huggingface_hub",
        ) from None
    try:
        return Path(
            snapshot_download(name, allow_patterns=list(_WANTED), etag_timeout=10)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise LuminaError(
            "E107",
            f"there is no folder {name}, and no such model could be fetched: "
            + str(error).partition("\n")[0],
            "check the name or path; offline, fetch the model's folder beforehand",
        ) from None
