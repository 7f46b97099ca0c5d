"""From what was gathered to one HTML document without a link to anything outside.

The style and the script stand in the document. A Content-Security-Policy allows these
two by their hashes and nothing else, so that no text of a run can become code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

STYLES = ("colours.css", "layout.css", "charts.css", "print.css")
SCRIPTS = ("numbers.js", "scales.js", "chart.js", "pointer.js", "controls.js")
"""In the order in which they need each other."""


def render(content: Mapping[str, Any]) -> str:
    """The document.

    Args:
        content: what `page.html.jinja` shows.
    """
    style, script = _joined(STYLES), _joined(SCRIPTS)
    return _template().render(
        **content,
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        numbers=as_data(_numbers(content)),
    )


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy of the page: nothing but these two texts."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the script draws."""
    shown = ("id", "unit", "log", "lines")
    charts = [chart for group in content["groups"] for chart in group.charts]
    return {
        "charts": [{key: chart[key] for key in shown} for chart in charts],
        "marks": content["marks"],
        "axes": content["axes"],
    }


def as_data(value: Any) -> Markup:
    """JSON within a `script` element; nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


@cache
def _joined(names: tuple[str, ...]) -> str:
    folder = resources.files("lumina.observe.report").joinpath("page")
    return "\n".join(folder.joinpath(name).read_text("utf-8") for name in names)


@cache
def _template() -> jinja2.Template:
    folder = resources.files("lumina.observe.report").joinpath("page")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    return environment.from_string(
        folder.joinpath("page.html.jinja").read_text("utf-8")
    )


def _printable(value: Any) -> Any:
    """Characters that no HTML document may hold become a visible replacement."""
    if isinstance(value, str) and _CONTROL.search(value):
        return type(value)(_CONTROL.sub("\ufffd", value))
    return value
