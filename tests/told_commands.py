"""The commands that a page tells people to type, and whether the command line takes them."""

from __future__ import annotations

import re
import shlex

import click


def lines(text: str) -> list[str]:
    """The lines of the code blocks of some Markdown, each without its comment; `\\` at its end continues one."""
    fences = re.findall(
        r"^ *```(\w*)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL
    )  # all, so that each end has its begin
    blocks = [block for language, block in fences if language in ("", "bash", "sh")]
    joined = (line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines())
    return [told for line in joined if (told := line.partition(" #")[0].strip())]


def of_al(text: str) -> list[str]:
    """All calls of `al`, those inside a sentence or a table, too."""
    called = [line for line in lines(text) if line.startswith("al ")]
    in_sentences = re.findall(r"`(al [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return list(dict.fromkeys([*called, *(line.replace("\\|", "|") for line in in_sentences)]))


def taken(group: click.Group, line: str) -> None:
    """Raises `AssertionError` where there is no such command or option."""
    words = shlex.split(re.sub(r"[|\[\]]", " ", line))[1:]
    if words and words[0] in ("--config", "--debug", "--quiet"):
        words = words[2:] if words[0] == "--config" else words[1:]
    _taken(group, words, line)


def _taken(group: click.Group, words: list[str], line: str) -> None:
    if not words or words[0].startswith("-"):
        return
    if words[0] == words[0].upper():  # `al COMMAND --help`
        return
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, f"no such command: {line}"
    if isinstance(command, click.Group) and words[1:]:
        _taken(command, words[1:], line)
        return
    there = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
    asked = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert asked <= there | {"--help"}, f"no such option: {line}"
