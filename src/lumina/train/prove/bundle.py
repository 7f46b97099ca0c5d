"""The folder of a bundle: pieces as they are done, the page, the way to rerun it."""

from __future__ import annotations

import hashlib
import json
import shlex
import tarfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lumina.config import Config
from lumina.durable import write_file
from lumina.errors import LuminaError
from lumina.plan.doctor import version_of
from lumina.state import exact_json
from lumina.train.prove.piece import Amounts, Asked, Piece

BUNDLE, PAGE, RERUN, CONFIG = "bundle.json", "README.md", "rerun.sh", "config.yaml"


class Bundle:
    """A bundle that is begun, or resumed.

    Args:
        folder: of the bundle.
        config: of the training.
        amounts: how much is measured.
        against: peers that were named.

    Attributes:
        folder: where it is.

    Raises:
        LuminaError: E002 for a folder with something else in it, or a bundle of
            other settings or versions.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        amounts: Amounts,
        against: Sequence[str],
    ) -> None:
        self.folder = folder
        self.config = config
        self.amounts = amounts
        self.against = tuple(against)
        self.identity = self._identity()
        self._begin()

    def _identity(self) -> dict[str, Any]:
        """What all pieces of a bundle have in common."""
        import torch

        cuda = torch.cuda.is_available()
        # The values alone: a bundle that is gone on with from its own config.yaml has
        # been given them there, which the file's comments say.
        settings = exact_json.dumps(self.config.to_dict(), sort_keys=True).encode()
        return {
            "lumina": version_of("luminaai") or "not installed",
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "settings": hashlib.sha256(settings).hexdigest(),
            "amounts": asdict(self.amounts),
            "against": list(self.against),
        }

    def _begin(self) -> None:
        path = self.folder / BUNDLE
        if not path.is_file():
            if self.folder.exists() and (
                not self.folder.is_dir() or any(self.folder.iterdir())
            ):
                raise LuminaError(
                    "E002",
                    f"{self.folder} is there already and is no bundle",
                    "name another folder with --out",
                )
            (self.folder / "pieces").mkdir(parents=True, exist_ok=True)
            self.config.save(self.folder / CONFIG)
            self._write_rerun()
            write_file(path, _json(self.identity))  # last: then the rest is there
            return
        found = json.loads(path.read_bytes())
        if found != self.identity:
            other = [n for n, v in self.identity.items() if found.get(n) != v]
            raise LuminaError(
                "E002",
                f"the bundle in {self.folder} has other {', '.join(other)}",
                "name another folder with --out, or give the settings that it has",
            )

    def result(self, name: str) -> dict[str, Any] | None:
        """What a piece gave; None where it is not done."""
        path = self.folder / "pieces" / f"{name}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return found

    def measure(self, pieces: Sequence[Piece], asked: Asked) -> dict[str, str]:
        """Measure the pieces that are not done.

        Args:
            pieces: in the order in which they are measured.
            asked: what they are asked for.

        Returns:
            Piece -> why it failed, of those that did. Another try does them again.
        """
        failed: dict[str, str] = {}
        for piece in pieces:
            known = self.result(piece.name)
            if known is not None:
                asked.tell(f"{piece.name}: done before")
                asked.done[piece.name] = known["result"]
                continue
            if asked.stopped():
                break
            lacking = [name for name in piece.after if name not in asked.done]
            if lacking:
                failed[piece.name] = f"needs {lacking[0]}, which is not there"
                continue
            asked.tell(f"{piece.name}: begins")
            began = time.perf_counter()
            try:
                found = piece.run(asked)
            except LuminaError as error:
                failed[piece.name] = f"{error.code}: {error.message}"
                asked.tell(f"{piece.name}: failed: {error.message}")
                continue
            if found is None:
                break
            asked.done[piece.name] = found
            whole = {
                "piece": piece.name,
                "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "seconds": time.perf_counter() - began,
                "result": found,
            }
            write_file(self.folder / "pieces" / f"{piece.name}.json", _json(whole))
        return failed

    def write_page(self, pieces: Sequence[Piece], failed: dict[str, str]) -> bool:
        """Write README.md; whether every piece is in it."""
        lines = [
            "# How fast and how exact training is here",
            "",
            f"Made by `lumina prove` of Lumina {self.identity['lumina']} with torch "
            f"{self.identity['torch']}. Each section is made of `pieces/NAME.json`, "
            f"which has every figure; `sh {RERUN}` measures all of it again into "
            f"another folder, `sh {RERUN} --missing` what is not there into this one.",
            "",
        ]
        whole = True
        for piece in pieces:
            known = self.result(piece.name)
            lines += [f"## {piece.name.capitalize()}", ""]
            if known is None:
                whole = False
                why = failed.get(piece.name, "not measured yet")
                lines += [f"Not there: {why}.", ""]
                continue
            lines += piece.page(known["result"])
            lines += [f"({known['date']}, {known['seconds']:.0f} s)", ""]
        write_file(self.folder / PAGE, "\n".join(lines).encode())
        return whole

    def pack(self) -> Path:
        """FOLDER.tar.gz, beside the folder."""
        target = self.folder.with_name(f"{self.folder.name}.tar.gz")
        partial = target.with_name(f".{target.name}.partial")
        with tarfile.open(partial, "w:gz") as archive:
            archive.add(self.folder, arcname=self.folder.name)
        partial.replace(target)
        return target

    def _write_rerun(self) -> None:
        words = []
        for name, value in asdict(self.amounts).items():
            flag = "timed-steps" if name == "steps" else name.replace("_", "-")
            words += [f"--{flag}", str(value)]
        if self.against:
            words += ["--against", *self.against]
        text = (
            "#!/bin/sh\n"
            f"# Measures this bundle again, with Lumina {self.identity['lumina']} and "
            f"torch {self.identity['torch']}.\n"
            f"# sh {RERUN} [FOLDER]   all of it, into a new folder (default: again)\n"
            f"# sh {RERUN} --missing  in this folder: the pieces that are not there\n"
            "# Options of lumina prove may follow, such as --pieces NAME ...\n"
            'here=$(cd "$(dirname "$0")" && pwd) || exit 1\n'
            "out=again\n"
            'case "${1:-}" in\n'
            "    --missing) out=$here; shift ;;\n"
            '    "" | -*) ;;\n'
            "    *) out=$1; shift ;;\n"
            "esac\n"
            f'exec lumina prove --config-file "$here/{CONFIG}" {shlex.join(words)} '
            '--out "$out" "$@"\n'
        )
        write_file(self.folder / RERUN, text.encode())
        (self.folder / RERUN).chmod(0o755)


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()
