"""Packages that are not required: what each is for, and what happens without it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from lumina.plan.doctor import OPTIONAL
from references import code, table

HEAD = """# Optional packages

Lumina needs PyTorch, numpy, safetensors, tokenizers and a few small libraries. All else
is optional, and nothing is used in secret or left out in silence:

- Where you ask for something by name that needs a missing package, Lumina refuses with
  E003 or E104 before any work begins, and names the package and the command that
  installs it.
- Where the plan chooses by itself, it takes another way that gives the same result, and
  says so with the reason: plain PyTorch in place of a fused kernel, its attention in
  place of FlashAttention, no compilation. `--strict` refuses such a fallback.
- Figures that need a package, such as the use of the GPU, are null without it.

`lumina doctor` shows which ones are installed here.
"""


def page() -> str:
    """The page as Markdown."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]

    def extra_of(package: str) -> str:
        named = [
            name
            for name, packages in extras.items()
            if package in packages and name not in ("test", "lint", "docs")
        ]
        return code(f"luminaai[{named[0]}]") if named else code(package)

    rows = [(code(name), why, extra_of(name)) for name, why in OPTIONAL.items()]
    return f"{HEAD}\n{table(('package', 'for', 'pip install'), rows)}"
