"""`al label`: the page on which people label."""

from __future__ import annotations

import getpass
import shlex

import click

from al_cli.console import console, json_option, open_platform, print_json
from al_resources.settings import load_settings

LABEL_STUDIO_PORT = 8080


@click.group(invoke_without_command=True)
@click.option("--for", "names", multiple=True, metavar="NAME", help="Print a link for this person; repeat for each.")
@click.option("--port", type=click.IntRange(0, 65535), help="Instead of labeling_page.port; 0 takes any free one.")
@click.option("--overlap", type=click.IntRange(1, 20), help="People who are asked about each picture.")
@click.option(
    "--overlap-when",
    type=click.Choice(["always", "model_disagrees"]),
    help="model_disagrees: ask more than one only where the first answer and the model disagree.",
)
@click.option("--auto-release", is_flag=True, help="Release a round by itself when every picture is answered.")
@click.option(
    "--with",
    "tool",
    type=click.Choice(["label-studio"]),
    help="Instead of the page, run this tool here: installed on first use, on loopback, telling nobody anything.",
)
@click.option("--links-only", is_flag=True, help="Print the links of a page that runs already, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --links-only: print JSON instead of text.")
@click.pass_context
def label(
    context: click.Context,
    names: tuple[str, ...],
    port: int | None,
    overlap: int | None,
    overlap_when: str | None,
    auto_release: bool,
    tool: str | None,
    links_only: bool,
    as_json: bool,
) -> None:
    """Open the page on which people label the staged rounds, until Ctrl-C.

    One picture, one key a class; a grid of look-alikes; undo, unsure, bad image, notes. Release writes what the
    sensor finds. Whoever has a link labels under its name.
    """
    if context.invoked_subcommand is not None:
        return
    if as_json and not links_only:
        raise click.UsageError("--json goes with --links-only: the page itself runs until Ctrl-C")
    if tool is not None:
        if names or overlap or overlap_when or auto_release or links_only:
            raise click.UsageError("--with takes --port only: people, overlap and release are the tool's own affair")
        run_label_studio(port)
        return
    from al_labeling.app import run_page
    from al_labeling.guard import Guard, page_secret
    from al_resources.platform import Platform

    settings = load_settings()
    asked = {"overlap": overlap, "overlap_when": overlap_when, "auto_release": auto_release or None}
    changes = {name: value for name, value in asked.items() if value is not None}
    page = settings.labeling_page.model_copy(update=changes)
    settings = settings.model_copy(update={"labeling_page": page})
    people = names or (getpass.getuser(),)

    def show_links(address: str, guard: Guard) -> None:
        if as_json:
            print_json({"address": address, "links": {name: guard.link(address, name) for name in people}})
            return
        if page.login == "entra":
            console.print(f"labeling page: {address}   people come in by their login", soft_wrap=True)
            return
        for name in people:
            console.print(f"{name}: {guard.link(address, name)}", soft_wrap=True, markup=False)

    if links_only:
        show_links(
            page.url if port is None else f"http://{page.host}:{port}", Guard(page, page_secret(page, settings.home))
        )
        return
    try:
        run_page(Platform(settings), port=port, ready=show_links)
    except OSError as error:
        raise click.ClickException(f"{error}; --port takes another one") from error


def run_label_studio(port: int | None) -> None:
    """Run Label Studio on this machine until Ctrl-C."""
    import time

    from al_cli.dagster_process import free_port
    from al_cli.label_studio_server import USER, LabelStudioServer
    from al_cli.processes import Children, signals_end_it, sole_use
    from al_resources.labeling.projects.label_studio_client import TOKEN_VARIABLE

    settings = load_settings()
    home = settings.home / "label-studio"
    port = port or free_port(LABEL_STUDIO_PORT if port is None else 0)
    server = LabelStudioServer(home / "environment", home / "data", port)
    try:
        with signals_end_it(), sole_use(home, "al label --with label-studio"), Children() as children:
            server.install(lambda text: console.print(text, soft_wrap=True, markup=False))
            children.start(server.child(home / "server.log"))
            with console.status("starting Label Studio"):
                server.wait_until_ready(children.check)
            told = f"{server.url}   log in as {USER}, password in {server.password_file}"
            console.print(f"Label Studio: {told}", soft_wrap=True, markup=False)
            if (settings.labeling.project, settings.label_studio.url) != ("label_studio", server.url):
                wanted = f'labeling.project = "label_studio", label_studio.url = "{server.url}"'
                console.print(f"for the loop to use it, set {wanted} in al.toml", soft_wrap=True, markup=False)
            token = f'export {TOKEN_VARIABLE}="$(cat {shlex.quote(str(server.token_file))})"'
            console.print(f"and start Dagster with its token: {token}", soft_wrap=True, markup=False)
            console.print("Ctrl-C ends it")
            while True:
                for line in children.check():
                    console.print(line, style="yellow", markup=False)
                time.sleep(1)
    except KeyboardInterrupt:
        console.print("stopped")


@label.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--annotator", help="Only this one's answers; otherwise everybody's.")
@json_option
def remove(images: tuple[str, ...], annotator: str | None, as_json: bool) -> None:
    """Take the answers for IMAGES back, by id or by name; the next datasets are made without them."""
    from al_loop.importing import take_back

    path = take_back(open_platform(), images, annotator)
    if as_json:
        print_json({"delivered": path})
        return
    console.print(f"in the inbox: {path}; the sensor takes it at its next look", soft_wrap=True, markup=False)
