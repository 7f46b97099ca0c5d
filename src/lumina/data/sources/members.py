"""What a file's name says of its format, and which members of an archive are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lumina.data.files import is_for_people, kind_of
from lumina.data.readers import table
from lumina.data.sources.compression import COMPRESSIONS

TAR_SUFFIXES: dict[str, str] = {
    ".tar": "", ".tgz": ".gz", ".tbz2": ".bz2", ".tbz": ".bz2", ".txz": ".xz",
    ".tzst": ".zst",
    **{f".tar{suffix}": suffix for suffix in COMPRESSIONS},
}  # fmt: skip
"""Endings of tar archives -> the compression."""

ZIP_SUFFIX = ".zip"

ABOUT_DATA = {
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json",
    "metadata.json", "manifest.json", "package.json", "config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
}  # fmt: skip
"""Files that folders of data hold about the data. They are read where named."""

HIDDEN = "hidden files in archives"
LINKS = "links in archives"
DEVICES = "devices in archives"
SPARSE = "files with holes in archives"
ARCHIVES = "archives in archives"
NOT_TEXT = "files without a suffix that are not text"

_OTHER_ARCHIVES = (".7z", ".rar", ".cab", ".iso", ".jar", ".whl", ".egg", ".cpio")

_NO_DATA = ("makefile", "dockerfile", "cmakelists.txt", "requirements.txt")
"""Names of text files in archives that are about the rest."""


@dataclass(frozen=True)
class Form:
    """What a file is.

    Attributes:
        format: the reader's name; None: no suffix says so, and its bytes have to.
        compression: suffix of the compression around it, or "".
    """

    format: str | None
    compression: str = ""


def form_of(name: str, searched_only: bool = False) -> Form | None:
    """What a file is by its name; None where there is no reader for it.

    Args:
        name: of the file, without folders.
        searched_only: only suffixes that a folder is searched for.
    """
    stem, suffix = _divided(name)
    compression = suffix if suffix in COMPRESSIONS else ""
    if compression:
        _, suffix = _divided(stem)
    format_name = table.suffixes(by_name=not searched_only).get(suffix)
    return None if format_name is None else Form(format_name, compression)


def tar_compression(name: str) -> str | None:
    """The compression of a tar archive ("": none); None: this is no tar archive."""
    stem, suffix = _divided(name)
    _, before = _divided(stem)
    return TAR_SUFFIXES.get(before + suffix, TAR_SUFFIXES.get(suffix))


def _divided(name: str) -> tuple[str, str]:
    """A name without its last suffix, and that suffix in small letters."""
    stem, point, ending = name.rpartition(".")
    stem_name = stem.rpartition("/")[2]
    if not point or not stem_name or not ending or "/" in ending:
        return name, ""
    return stem, f".{ending.lower()}"


def is_archive(name: str) -> bool:
    """Whether a file is an archive that can be read, by its name."""
    return name.lower().endswith(ZIP_SUFFIX) or tar_compression(name) is not None


class DataFiles:
    """The files that text and conversations are read from, for `find_files`."""

    @property
    def searched(self) -> tuple[str, ...]:
        """The suffixes that a folder is searched for."""
        return (*table.suffixes(by_name=False), ZIP_SUFFIX, ".tar")

    @property
    def by_name(self) -> tuple[str, ...]:
        """Suffixes of files that are read where they are named."""
        return tuple(table.suffixes(searched=False))

    def in_folder(self, file: Path) -> bool:
        """Whether the file is data where it is found in a folder."""
        name = file.name
        if name.lower() in ABOUT_DATA:
            return False
        return is_archive(name) or form_of(name, searched_only=True) is not None

    def named(self, file: Path) -> bool:
        """Whether the file can be read where a path or a pattern names it."""
        return is_archive(file.name) or form_of(file.name) is not None


DATA = DataFiles()


def leads_out(name: str) -> bool:
    """Whether a member's name is one that would leave the archive's folder."""
    parts = name.replace("\\", "/").split("/")
    drive = len(parts[0]) == 2 and parts[0].endswith(":")
    return name.startswith(("/", "\\")) or drive or ".." in parts or "\0" in name


def member_form(name: str) -> Form | str:
    """What a member of an archive is; a text says under what it counts as left out.

    The text of an archive is data, also .md, .rst and source text: an archive has been
    put together to be handed on. Only what its name says is about the rest, as README
    and LICENSE do, is left out.
    """
    parts = [p for p in name.replace("\\", "/").split("/") if p and p != "."]
    last = parts[-1] if parts else ""
    if not last or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return HIDDEN
    low = last.lower()
    if is_archive(last) or low.endswith(_OTHER_ARCHIVES):
        return ARCHIVES
    if is_for_people(last) or low in _NO_DATA or low in ABOUT_DATA:
        return kind_of("readme")
    form = form_of(last)
    if form is not None:
        return form
    return kind_of(last) if _divided(last)[1] else Form(None)


def shown(name: str) -> str:
    """A name as it can be printed, whatever bytes it has."""
    return name.encode(errors="backslashreplace").decode()
