"""What the commands share: one console, one way to print JSON, one way to open the platform."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from rich import markup
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from al_core.shown_text import harmless, harmless_lines
from al_resources.platform import Platform


class HarmlessConsole(Console):
    """A console on which only its own codes act: what is printed shows a stranger's as escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with all text made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless_lines(segment.text), segment.style)


console = HarmlessConsole(highlight=False)
_ACTING = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")  # JSON leaves these as they are
JSON_LINES = "Print JSON, a line an event, instead of text."
Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """`--json`: the same facts for a machine to read."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def escape(text: str) -> str:
    """A stranger's text between ours, on the console: one line, and no markup."""
    return markup.escape(harmless(text))


def print_json(value: Any) -> None:
    """To standard output, without colours or wrapping."""
    click.echo(_shown_in_json(json.dumps(value, indent=2, ensure_ascii=False, default=str)))


def print_json_line(value: Any) -> None:
    """One line of JSON, at once: for commands that go on telling."""
    click.echo(_shown_in_json(json.dumps(value, ensure_ascii=False, default=str)))
    sys.stdout.flush()


def _shown_in_json(text: str) -> str:
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def open_platform() -> Platform:
    """The platform of the settings in force. Raises `GiveUp` where a newer version wrote its home."""
    from al_resources.format_versions import check_version

    platform = Platform()
    if platform.profile.blobs_at_hand:
        check_version(platform.blobs)
    return platform
