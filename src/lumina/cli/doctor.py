"""`lumina doctor`: what this machine offers, and what is missing."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import shutil
from pathlib import Path

from lumina import __version__
from lumina.cli.text import size
from lumina.features.registry import FEATURES
from lumina.plan.environment import Environment, probe

_PACKAGES = (
    "torch", "numpy", "safetensors", "tokenizers", "pydantic", "transformers", "triton",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found."""
    environment = probe()
    versions = _versions()
    if args.json:
        facts = {"environment": dataclasses.asdict(environment), "versions": versions}
        print(json.dumps(facts, indent=2))
        return 0
    print("\n".join([*_machine(environment), *_software(versions, environment)]))
    print("\n".join(_unavailable(environment)))
    return 0


def _machine(environment: Environment) -> list[str]:
    peaks = [
        f"{kind} {flops / 1e12:.4g} TFLOP/s"
        for kind, flops in environment.peak_flops.items()
        if flops
    ]
    bf16 = "yes" if environment.bf16 else "no"
    if environment.bf16_speedup is not None:
        bf16 += f" (measured {environment.bf16_speedup:.2f}x float32 here)"
    free = shutil.disk_usage(Path.cwd()).free
    lines = [
        f"device      {environment.device}: {environment.device_name}"
        + (f" x {environment.device_count}" if environment.device_count > 1 else ""),
        f"memory      {size(environment.memory_bytes)} on the device, "
        f"{size(environment.host_memory_bytes)} on the host",
        f"processor   {environment.cpu_name}, {environment.cores} cores, "
        f"{' '.join(environment.cpu_features) or 'no vector extensions found'}",
        f"bfloat16    {bf16}",
        f"peak        {', '.join(peaks) or 'unknown for this device, so no MFU'}",
        f"compiler    {environment.compiler_detail or 'none'}",
        f"disk        {size(free)} free here",
    ]
    if environment.capability is not None:
        major, minor = environment.capability
        lines.insert(1, f"capability  {major}.{minor}")
    return lines


def _software(versions: dict[str, str | None], environment: Environment) -> list[str]:
    lines = [f"lumina      {__version__}, Python {platform.python_version()}"]
    found = [f"{name} {version}" for name, version in versions.items() if version]
    lines.append(f"packages    {', '.join(found)}")
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        lines.append(f"            not installed: {', '.join(missing)}")
    if environment.cuda_version:
        lines.append(f"            torch was built for CUDA {environment.cuda_version}")
    return lines


def _unavailable(environment: Environment) -> list[str]:
    problems = {
        name: problem
        for name, feature in FEATURES.items()
        if (problem := feature.needs(environment))
    }
    if not problems:
        return ["features    all can be used here"]
    return [
        "features    not here:",
        *(f"            {name}: {problem}" for name, problem in problems.items()),
    ]


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions
