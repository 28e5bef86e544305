"""`al forget`: a picture erased, and all that was said of it."""

from __future__ import annotations

import click

from al_cli.console import console, json_option, open_platform, print_json


@click.command()
@click.argument("image")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@json_option
def forget(image: str, yes: bool, as_json: bool) -> None:
    """Erase IMAGE, an id or a name, from store, prediction log, labels, names, staged rounds and later datasets.

    It cannot be undone. Only its content id stays on record, so that it is not brought in again. Dataset versions that
    exist, models trained on it, export files and the run history keep what they hold; docs/operations.md says how to
    clear these.
    """
    from al_loop.forgetting import forget as erase
    from al_loop.trace import image_id_of

    platform = open_platform()
    image_id = image_id_of(platform, image)
    if not yes:
        click.confirm(f"Erase image {image_id} and all that was said of it, for good?", abort=True)
    done = erase(platform, image_id)
    if as_json:
        print_json({"image": image_id, "erased": done})
        return
    erased = ", ".join(f"{count} {name}" for name, count in done.items() if count) or "nothing was left of it"
    console.print(f"{image_id} is forgotten: {erased}", soft_wrap=True)
