"""Every option: its flag, what else it is called, what it may be, its default."""

from __future__ import annotations

from lumina.config.leaves import choices, field, is_list, optional, value_type
from lumina.config.provenance import show
from lumina.config.sections import SECTIONS
from lumina.config.spellings import SYNONYMS
from references import code, table

HEAD = """# Options

An option is a flag of `lumina train` (`--learning-rate 3e-4`), a line of a file
that `--config-file` names (`learning_rate: 3e-4`), and a name in Python
(`Config.resolve(flags={"learning_rate": 3e-4})`). Dashes and underscores mean the
same. A preset gives other defaults to some of them ([presets](presets.md)).

`lumina train --help` prints the same list, and `lumina config` the values of a
run with where each came from.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        about = (section.__doc__ or "").strip().partition("\n")[0]
        parts.append(f"## {name}\n\n{about}\n")
        rows = [_row(leaf) for leaf in section.model_fields]
        parts.append(table(("option", "may be", "default", "meaning"), rows))
    return "\n".join(parts)


def _row(leaf: str) -> tuple[str, str, str, str]:
    flags = ["--" + leaf.replace("_", "-")]
    flags += [
        f"--{s.replace('_', '-')}" for s, meant in SYNONYMS.items() if meant == leaf
    ]
    info = field(leaf)
    default = info.get_default(call_default_factory=True)
    shown = "" if default is None else code(show(default))
    return ", ".join(map(code, flags)), _kind(leaf), shown, info.description or ""


def _kind(leaf: str) -> str:
    some = choices(leaf)
    if some:
        text = ", ".join(code(one) for one in some)
    else:
        text = {
            bool: "yes or no",
            int: "a whole number",
            float: "a number",
            str: "text",
        }.get(value_type(leaf), "text")
    if is_list(leaf):
        text = f"a list of {text}" if some else "a list"
    return text + (", or nothing" if optional(leaf) else "")
