"""`al completion`: what a shell needs to complete `al`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets SHELL complete commands, options and file names of `al`.

    In bash and zsh, put `eval "$(al completion bash)"` into ~/.bashrc or ~/.zshrc; in fish, write what is printed to
    ~/.config/fish/completions/al.fish.
    """
    from al_cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, "click knows these shells"
    click.echo(found(cli, {}, "al", "_AL_COMPLETE").source())
