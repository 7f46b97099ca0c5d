"""Data sets of the Hugging Face hub, streamed by the `datasets` library.

No program of a data set is ever run: the library reads files of data only.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from lumina.data.libraries import needed
from lumina.data.sources.entry import Access, Entry, Source, SourceKind
from lumina.errors import LuminaError
from lumina.threads import within

SCHEME = "hf://"

REACH_SECONDS = 8.0
"""How long the hub has to answer at all."""

DESCRIBE_SECONDS = 20.0
"""How long the description of a data set may take once the hub answers."""


_UNREACHED = (
    "check the network (HTTPS_PROXY, HF_ENDPOINT), or fetch the data set where there "
    "is one (hf download --repo-type dataset NAME) and name its files"
)


@dataclass(frozen=True)
class Address:
    """What a name says: `hf://name[@revision][:config][:split]`.

    Attributes:
        name: of the data set, or the path of a folder that `datasets` can load.
        revision: a branch, a tag or a commit; None: the main branch.
        parts: what follows: a configuration, a split, or both.
    """

    name: str
    revision: str | None
    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Address:
        """The parts of an address.

        Raises:
            LuminaError: E005 it is not written like one.
        """
        first, *parts = text.removeprefix(SCHEME).split(":")
        name, at, revision = first.partition("@")
        if not name or len(parts) > 2 or not all(parts) or (at and not revision):
            raise LuminaError(
                "E005",
                f"{text}: this is no name of a data set",
                "write hf://name, hf://name:config:split or hf://name@revision:split",
            )
        return cls(name, revision or None, tuple(parts))


@dataclass(frozen=True)
class Described:
    """A split of a data set, before it is read.

    Attributes:
        builder: of the `datasets` library.
        split: the split's name.
    """

    builder: Any
    split: str


class Hub(SourceKind):
    """A split is one entry; its rows are records."""

    def describes(self, name: str) -> bool:
        """Whether it is an address of the hub."""
        return name.startswith(SCHEME)

    def may_hold(self, name: str, suffixes: tuple[str, ...]) -> bool:
        """Whether they are those of records: rows are, in files of any format."""
        return ".jsonl" in suffixes

    def size(self, source: Source) -> int:
        """Bytes of the split, where its description says so; 0 where it does not."""
        found = described(source.name)
        info = (found.builder.info.splits or {}).get(found.split)
        return int(info.num_bytes or 0) if info is not None else 0

    def identity(self, source: Source) -> list[str]:
        """The commit of the data set, or the times of a folder's files."""
        found = described(source.name)
        files = (found.builder.config.data_files or {}).get(found.split)
        origin = getattr(files, "origin_metadata", [])
        return [
            "hf", found.split, str(found.builder.config_id), str(found.builder.hash),
            *(str(part) for parts in origin for part in parts),
        ]  # fmt: skip

    def entries(self, source: Source, access: Access) -> Iterator[Entry]:
        """The split."""

        def no_bytes() -> NoReturn:
            raise TypeError(f"{source.name} has rows and no bytes")

        yield Entry(
            source.name,
            None,
            "rows",
            no_bytes,
            rows=functools.partial(_rows, source.name),
        )


def _rows(name: str, first: int) -> Iterator[Any]:
    """The rows of a split from a number on.

    Raises:
        LuminaError: E107 the hub does not answer any more.
    """
    found = described(name)
    errors = _network_errors()
    try:
        rows = found.builder.as_streaming_dataset(split=found.split)
        if hasattr(rows, "decode"):
            rows = rows.decode(False)  # pictures and sounds stay bytes
        yield from rows.skip(first) if first else rows
    except errors as error:
        raise _unreached(name, error) from None


@functools.cache
def described(text: str) -> Described:
    """The description of what an address means.

    Raises:
        LuminaError: E104 there is no such data set, configuration or split; E105 it has
            no data; E107 the hub does not answer.
    """
    address = Address.of(text)
    datasets = needed("datasets")
    datasets.disable_progress_bars()
    if not Path(address.name).is_dir():
        _reach(text)
    try:
        return within(DESCRIBE_SECONDS, lambda: _describe(datasets, address, text))
    except LuminaError:
        raise
    except TimeoutError as error:
        raise _unreached(text, error) from None
    except datasets.exceptions.DatasetNotFoundError as error:
        raise LuminaError(
            "E104",
            f"{text}: {_first_line(error)}",
            "check the name; for a data set that is not public, set HF_TOKEN",
        ) from None
    except _network_errors() as error:
        raise _unreached(text, error) from None
    except FileNotFoundError as error:
        raise LuminaError(
            "E105", f"{text}: {_first_line(error)}", "name a data set that has data"
        ) from None
    except (ValueError, RuntimeError, OSError) as error:
        raise LuminaError(
            "E101",
            f"{text}: the library datasets cannot read this: {_first_line(error)}",
            "download its files, and name these in place of it",
        ) from None


def _describe(datasets: Any, address: Address, text: str) -> Described:
    """The configuration and the split, which the first part alone may each be."""
    config, split = (*address.parts, None, None)[:2]

    def build(name: str | None) -> Any:
        return datasets.load_dataset_builder(
            address.name, name, revision=address.revision
        )

    try:
        builder = build(config)
    except ValueError as error:
        if "not found" not in str(error):
            raise
        if split is not None or config is None:
            raise LuminaError("E104", f"{text}: {_first_line(error)}", "") from None
        builder, split = build(None), config
    there = [str(name) for name in _splits(builder)]
    if split is None:
        split = there[0] if len(there) == 1 else "train"
    if there and split not in there:
        raise LuminaError(
            "E104",
            f"{text}: there is no configuration or split {split!r}",
            f"its splits are {', '.join(there)}",
        )
    return Described(builder, split)


def _splits(builder: Any) -> list[Any]:
    files = builder.config.data_files
    return list(files) if files else list(builder.info.splits or ())


def _reach(text: str) -> None:
    """Refuse where the hub, or the proxy before it, takes no connection.

    The `datasets` library would try for half a minute and longer.
    """
    hub = needed("huggingface_hub")
    if hub.constants.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE") == "1":
        raise _unreached(text, "HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set")
    endpoint = urlsplit(hub.constants.ENDPOINT)
    proxy = urlsplit(_proxy(endpoint.scheme))
    host = proxy if proxy.hostname else endpoint
    port = host.port or (443 if host.scheme == "https" else 80)

    def connect() -> bool:
        socket.create_connection((host.hostname, port), REACH_SECONDS).close()
        return True

    try:
        within(REACH_SECONDS, connect)
    except OSError as error:
        raise _unreached(text, f"{host.hostname}: {error}") from None


def _proxy(scheme: str) -> str:
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _network_errors() -> tuple[type[BaseException], ...]:
    errors = needed("huggingface_hub").errors
    return (
        ConnectionError,
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        *(getattr(sys.modules[n], error) for n, error in _HTTP if n in sys.modules),
    )


def _unreached(text: str, why: object) -> LuminaError:
    return LuminaError(
        "E107", f"{text}: the hub cannot be reached ({_first_line(why)})", _UNREACHED
    )


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0][:300]


_HTTP = (
    ("httpx", "TransportError"),
    ("httpx2", "TransportError"),
    ("requests", "RequestException"),
)
"""Libraries that the hub's library may have loaded, and their errors."""


KIND = Hub()
