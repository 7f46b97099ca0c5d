"""What matters to those who change Lumina: `lumina doctor --dev-mode`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lumina
from lumina.cache_root import cache_root
from lumina.plan.doctor import Row, version_of

TOOLS = (
    "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "coverage", "ruff",
    "mypy", "import-linter",
)  # fmt: skip

VARIABLES = (
    "LUMINA_CACHE", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF", "CC", "CXX",
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
    "MASTER_PORT", "NCCL_DEBUG", "NCCL_P2P_DISABLE", "TORCH_LOGS",
    "TORCHINDUCTOR_CACHE_DIR", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "HF_HOME",
    "NO_COLOR", "PYTHONPATH", "LD_LIBRARY_PATH",
)  # fmt: skip
"""Those that change what a run does. None of them holds a secret."""


def development() -> list[Row]:
    """Tools, where things are imported from, and variables that are set."""
    return [
        *(_tool(name) for name in TOOLS),
        Row("paths", "lumina", str(Path(lumina.__file__).parent)),
        Row("paths", "interpreter", sys.executable),
        Row("paths", "LUMINA_CACHE", str(cache_root())),
        _commit(),
        *_variables(),
    ]


def _tool(name: str) -> Row:
    version = version_of(name)
    return Row(
        "development", name, version or "not installed", "ok" if version else "absent"
    )


def _commit() -> Row:
    """The commit of a checkout, and whether it was changed since."""
    folder = Path(lumina.__file__).parents[2]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return Row("paths", "commit", "not a checkout", "absent")

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        return done.stdout.strip()

    changed = ", with changes" if git("status", "--porcelain") else ""
    return Row("paths", "commit", f"{git('rev-parse', '--short', 'HEAD')}{changed}")


def _variables() -> list[Row]:
    found = [
        Row("variables", name, os.environ[name])
        for name in VARIABLES
        if name in os.environ
    ]
    return found or [Row("variables", "none", "of those that change a run is set")]
