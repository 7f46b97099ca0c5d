"""A report of checks as text, as JSON, and as a page with plots."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from lumina.data.quality.assess import Report
from lumina.data.quality.check import Result
from lumina.errors import LuminaError
from lumina.quantities import byte_size

_BAR = 400
_SOURCES = 100
_TEXT_BAR = 40


def summary(report: Report) -> str:
    """What was read, in a sentence."""
    documents = f"{report.documents:,} document{'s' * (report.documents != 1)}"
    files = f"{len(report.sources):,} file{'s' * (len(report.sources) != 1)}"
    text = f"{documents} of {byte_size(report.bytes)} in {files}"
    if not report.complete:
        text += "; there are more, which were not read"
    if report.left_out:
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in report.left_out.most_common())
        text += f"; no data: {kinds}"
    return text


def as_text(report: Report, *, numbers: bool = False) -> str:
    """A line for each check, with its examples.

    Args:
        report: what was found.
        numbers: add the figures and distributions of each check.
    """
    lines = [summary(report), f"storage: {report.storage}", ""]
    for result in report.results:
        lines.append(f"{result.verdict:<13}{result.title}: {result.message}")
        for example in result.examples:
            where = example.source
            if example.line is not None:
                where += f", line {example.line}"
            lines.append(f"{'':<13}  {where}: {example.what}")
        if numbers:
            lines += [f"{'':<13}  {line}" for line in _figures(result)]
    return "\n".join(lines)


def _figures(result: Result) -> list[str]:
    lines = [f"{name}: {_number(value)}" for name, value in result.numbers.items()]
    most = max((count for _, count in result.bars), default=0)
    width = max((len(label) for label, _ in result.bars), default=0)
    for label, count in result.bars:
        bar = "█" * round(_TEXT_BAR * count / max(most, 1))
        lines.append(f"{label:>{width}} {bar} {count:,}")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def as_html(report: Report, title: str) -> str:
    """A page that needs nothing beside it."""
    text = resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    sources = report.sources.most_common(_SOURCES)
    page: str = environment.from_string(text).render(
        title=title,
        summary=summary(report),
        storage=report.storage,
        results=[_shown(result) for result in report.results],
        sources=[(name, f"{count:,}") for name, count in sources],
        more_sources=len(report.sources) - len(sources),
    )
    return page


def _shown(result: Result) -> dict[str, Any]:
    most = max((count for _, count in result.bars), default=0)
    return {
        **result.to_dict(),
        "examples": result.examples,
        "numbers": [(name, _number(value)) for name, value in result.numbers.items()],
        "bars": [
            (label, f"{count:,}", round(_BAR * count / max(most, 1), 1))
            for label, count in result.bars
        ],
    }


def require_new_folder(folder: Path) -> None:
    """Refuse a folder in use: nothing is overwritten.

    Raises:
        LuminaError: E002.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LuminaError(
            "E002",
            f"{folder} is there already, and nothing is overwritten",
            "name a new folder",
        )


def write_report(report: Report, folder: Path, title: str) -> list[Path]:
    """Write the report as report.txt, report.json and report.html into a new folder.

    Raises:
        LuminaError: E002 for a folder in use.
    """
    require_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.txt": as_text(report, numbers=True) + "\n",
        "report.json": json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
        + "\n",
        "report.html": as_html(report, title),
    }
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in contents]
