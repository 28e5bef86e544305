"""What the commands share: one console, one way to print JSON, one way to open the platform."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console

from al_resources.platform import Platform

console = Console(highlight=False)
Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """`--json`: the same facts for a machine to read."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def print_json(value: Any) -> None:
    """To standard output, without colours or wrapping."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def open_platform() -> Platform:
    """The platform of the settings in force. Raises `GiveUp` where a newer version wrote its home."""
    from al_resources.format_versions import check_version

    platform = Platform()
    check_version(platform.blobs)
    return platform
