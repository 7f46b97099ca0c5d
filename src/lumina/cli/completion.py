"""`lumina completion`: a script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from lumina.cli.command_words import Command, all_commands

_HOW = {
    "bash": "lumina completion bash > "
    "~/.local/share/bash-completion/completions/lumina",
    "zsh": "lumina completion zsh > ~/.zfunc/_lumina  (with ~/.zfunc in fpath)",
    "fish": "lumina completion fish > ~/.config/fish/completions/lumina.fish",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shell", choices=tuple(SHELLS), help="the shell's name")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print(SHELLS[args.shell](all_commands()))
    return 0


def bash(commands: list[Command]) -> str:
    """A script for bash 4 or newer; nothing is started while a person types."""
    cases = "\n".join(_bash_case(command) for command in commands)
    return f"""\
# Completion of lumina's commands and options for bash. To install it:
#   {_HOW["bash"]}
_lumina() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
  local path="" word index commands operands options choices
  if [[ $cur == "=" ]]; then cur=""; fi
  if [[ $prev == "=" ]]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  for ((index = 1; index < COMP_CWORD; index++)); do
    word=${{COMP_WORDS[index]}}
    _lumina_words "$path"
    if [[ " $commands " == *" $word "* ]]; then path="${{path:+$path }}$word"
    elif [[ $word != -* ]]; then break; fi
  done
  _lumina_words "$path"
  if [[ -n $choices ]]; then COMPREPLY=($(compgen -W "$choices" -- "$cur")); return; fi
  if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "$options" -- "$cur")); return; fi
  if [[ -n $commands$operands && $prev != -* ]]; then
    COMPREPLY=($(compgen -W "$commands $operands" -- "$cur"))
    if ((${{#COMPREPLY[@]}})); then return; fi
  fi
  compopt -o filenames 2>/dev/null
  COMPREPLY=($(compgen -f -- "$cur"))
}}
_lumina_words() {{
  commands="" operands="" options="" choices=""
  case "$1" in
{cases}
  esac
}}
complete -F _lumina lumina"""


def _bash_case(command: Command) -> str:
    options = " ".join(option for option in command.options if option.startswith("--"))
    lines = [
        f'    "{" ".join(command.words)}")',
        f'      commands="{" ".join(command.commands)}"',
        f'      operands="{" ".join(command.operands)}"',
        f'      options="{options}"',
    ]
    if command.choices:
        lines.append('      case "$prev" in')
        for values, names in _by_values(command).items():
            lines.append(f'        {"|".join(names)}) choices="{" ".join(values)}" ;;')
        lines.append("      esac")
    return "\n".join([*lines, "      ;;"])


def _by_values(command: Command) -> dict[tuple[str, ...], list[str]]:
    """Values -> the spellings of the options that may have them."""
    found: dict[tuple[str, ...], list[str]] = {}
    for spelling, values in command.choices.items():
        found.setdefault(values, []).append(spelling)
    return found


def zsh(commands: list[Command]) -> str:
    """The script of bash, which zsh runs by its own emulation of bash's completion."""
    script = bash(commands).split("\n", 2)[2]
    return (
        "#compdef lumina\n"
        "# Completion of lumina's commands and options for zsh. To install it:\n"
        f"#   {_HOW['zsh']}\n"
        "autoload -Uz +X bashcompinit && bashcompinit\n" + script
    )


def fish(commands: list[Command]) -> str:
    """A script for fish, with a line of help beside each word."""
    lines = [
        "# Completion of lumina's commands and options for fish. To install it:",
        f"#   {_HOW['fish']}",
    ]
    shared: dict[str, list[Command]] = {}
    for command in commands:
        where = _fish_condition(command)
        for name, text in command.commands.items():
            word = f"-a {name} -d {_quoted(text)}"
            lines.append(f"complete -c lumina -f -n {where} {word}")
        for option in command.options:
            if option.startswith("--"):
                shared.setdefault(_fish_option(command, option), []).append(command)
    for option, theirs in shared.items():
        alone = [command for command in theirs if len(command.words) == 1]
        if alone:
            words = " ".join(command.words[0] for command in alone)
            where = _quoted(f"__fish_seen_subcommand_from {words}")
            lines.append(f"complete -c lumina -n {where} {option}")
        for command in theirs:
            if command not in alone:
                lines.append(
                    f"complete -c lumina -n {_fish_condition(command)} {option}"
                )
    return "\n".join(lines)


def _fish_option(command: Command, option: str) -> str:
    """One option with its help and its values."""
    text = f"-l {option[2:]} -d {_quoted(command.options[option])}"
    if option in command.choices:
        return f"{text} -x -a {_quoted(' '.join(command.choices[option]))}"
    return f"{text} -r" if option in command.takes_value else text


def _fish_condition(command: Command) -> str:
    """When a command's words are those that were typed."""
    if not command.words:
        return "__fish_use_subcommand"
    seen = [f"__fish_seen_subcommand_from {word}" for word in command.words]
    if command.commands:
        names = " ".join(command.commands)
        seen.append(f"not __fish_seen_subcommand_from {names}")
    return _quoted("; and ".join(seen))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS: dict[str, Callable[[list[Command]], str]] = {
    "bash": bash,
    "zsh": zsh,
    "fish": fish,
}
"""Shell -> what makes its script."""
