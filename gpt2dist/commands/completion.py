"""`gpt2dist completion`: print a script with which a shell completes our command line.

The script holds all words, so that completing starts no Python. It follows from the parsers of the verbs.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from gpt2dist import cli
from gpt2dist.terminal import say

EXAMPLES = """\
Verbs, options, their choices and the keys of a configuration are completed. After an update, print it again.

examples:
  gpt2dist completion bash > ~/.local/share/bash-completion/completions/gpt2dist
  gpt2dist completion zsh > ~/.gpt2dist-completion         and in ~/.zshrc: source ~/.gpt2dist-completion
  gpt2dist completion fish > ~/.config/fish/completions/gpt2dist.fish
"""


@dataclass(frozen=True)
class Verb:
    """What can follow a verb.

    Attributes:
        name: The word.
        above: The verb before it: "" for most, "launch" for what it starts, "tokenizer" for its own verbs.
        summary: What it does.
        options: Each option with its help and its choices.
        words: Words that are no options: its own verbs and the choices of arguments.
        takes_keys: Whether it takes `section.key=value`.
    """

    name: str
    above: str
    summary: str
    options: tuple[tuple[str, str, tuple[str, ...]], ...]
    words: tuple[str, ...]
    takes_keys: bool

    @property
    def path(self) -> str:
        """The verb with the one above it, except for `launch`, which starts verbs of their own."""
        return f"{self.above}/{self.name}" if self.above not in ("", "launch") else self.name


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EXAMPLES
    parser.add_argument("shell", choices=tuple(SCRIPTS), help="the shell that runs the script")


def run(args: argparse.Namespace) -> None:
    """Print the script on standard output."""
    say(SCRIPTS[args.shell](list(verbs()), keys()), sys.stdout)


def verbs() -> Iterator[Verb]:
    """Yield all verbs, those within others after them."""
    for name, summary in cli.VERBS.items():
        parser = _inner(cli.build_parser(name))[name]
        yield _verb(name, "", summary, parser)
        for inner, below in _inner(parser).items():
            yield _verb(inner, name, below.description or "", below)
    for name in cli.DISTRIBUTED_VERBS:
        yield _verb(name, "launch", cli.VERBS[name], _inner(cli.build_parser(name))[name])


def keys() -> list[str]:
    """Return all keys of a configuration that can be set as section.key=value."""
    from gpt2dist.config.describe import Key, describe

    found: list[Key] = []
    sections = [describe()]
    while sections:
        for key in sections.pop(0).keys:
            (sections if key.keys else found).append(key)
    return sorted(key.name for key in found if "N" not in key.name.split("."))  # N: of an item in a list


def bash(every: list[Verb], keys: list[str]) -> str:
    """Return a script for bash."""
    follows = "\n".join(
        f"      {shlex.quote(f'{each.above}/{each.name}')}) verb={each.path} ;;" for each in every
    )
    by_path = {each.path: each for each in every}.values()
    choices = "\n".join(
        f"    {shlex.quote(f'{each.path} {option}')}) words={shlex.quote(' '.join(values))} ;;"
        for each in by_path
        for option, _, values in each.options
        if values
    )
    options = "\n".join(
        f"      {each.path}) words={shlex.quote(' '.join(option for option, _, _ in each.options))} ;;"
        for each in by_path
    )
    words = "\n".join(
        f"      {each.path}) words={shlex.quote(' '.join(each.words))} ;;" for each in by_path if each.words
    )
    with_keys = "|".join(each.path for each in by_path if each.takes_keys)
    return f"""\
# Completion of gpt2dist for bash: `gpt2dist completion bash`.
_gpt2dist() {{
  local word=$2 previous=$3 verb= words= each= place=0
  for each in "${{COMP_WORDS[@]}}"; do
    [ "$place" -lt "$COMP_CWORD" ] || break
    place=$((place + 1))
    case "$verb/$each" in
{follows}
    esac
  done
  case "$verb $previous" in
{choices}
    *)
    if [ "${{word#-}}" != "$word" ]; then
      case "$verb" in
{options}
      esac
    else
      case "$verb" in
      '') words={shlex.quote(" ".join(cli.VERBS))} ;;
{words}
      {with_keys}) [ -z "$word" ] || words={shlex.quote(" ".join(f"{key}=" for key in keys))} ;;
      esac
    fi ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -o default -o bashdefault -F _gpt2dist gpt2dist"""


def zsh(every: list[Verb], keys: list[str]) -> str:
    """Return a script for zsh, which understands that for bash."""
    lines = bash(every, keys).splitlines()
    start = [
        "# Completion of gpt2dist for zsh: `gpt2dist completion zsh`.",
        "autoload -U +X compinit && compinit -u",
        "autoload -U +X bashcompinit && bashcompinit",
    ]
    return "\n".join([*start, *lines[1:]])


def fish(every: list[Verb], keys: list[str]) -> str:
    """Return a script for fish."""
    lines = ["# Completion of gpt2dist for fish: `gpt2dist completion fish`.", "complete -c gpt2dist -e"]
    for each in every:
        if each.above == "launch":
            continue  # it has been seen as a verb of its own
        here = f"-n {_quoted(_seen(each, every))}"
        before = f"-n '__fish_seen_subcommand_from {each.above}'" if each.above else "-n __fish_use_subcommand"
        lines.append(f"complete -c gpt2dist -f {before} -a {each.name} -d {_quoted(each.summary)}")
        for option, text, values in each.options:
            if option.startswith("--"):
                chosen = f" -x -a {_quoted(' '.join(values))}" if values else ""
                lines.append(f"complete -c gpt2dist {here} -l {option[2:]}{chosen} -d {_quoted(text)}")
        words = [word for word in each.words if all(word != other.name for other in every)]
        words += [f"{key}=" for key in keys] if each.takes_keys else []
        if words:
            lines.append(f"complete -c gpt2dist {here} -a {_quoted(' '.join(words))}")
    inner = " ".join(cli.DISTRIBUTED_VERBS)
    lines.append(f"complete -c gpt2dist -n '__fish_seen_subcommand_from launch' -a {_quoted(inner)}")
    return "\n".join(lines)


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}


def _inner(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the verbs within a parser, by name."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: inner for group in groups for name, inner in group.choices.items()}


def _verb(name: str, above: str, summary: str, parser: argparse.ArgumentParser) -> Verb:
    options, words = [], list(_inner(parser))
    takes_keys = False
    for action in parser._actions:
        choices = tuple(map(str, action.choices or ()))
        text = "" if action.help in (None, argparse.SUPPRESS) else str(action.help)
        text = text % {**vars(action), "prog": parser.prog} if "%" in text else text
        options += [(option, text, choices) for option in action.option_strings]
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            words += choices
        takes_keys |= action.dest == "overrides"
    if name == "launch":
        words += cli.DISTRIBUTED_VERBS
    return Verb(name, above, summary, tuple(options), tuple(words), takes_keys)


def _seen(verb: Verb, every: list[Verb]) -> str:
    """Return fish's condition that a verb is on the command line, and no other verb's verb of its name."""
    others = {each.above for each in every if each.name == verb.name and each.path != each.name}
    if verb.above:
        return f"__fish_seen_subcommand_from {verb.above}; and __fish_seen_subcommand_from {verb.name}"
    apart = "".join(f"; and not __fish_seen_subcommand_from {other}" for other in sorted(others))
    return f"__fish_seen_subcommand_from {verb.name}{apart}"


def _quoted(text: str) -> str:
    """Quote a text for fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
