"""`al serve`: the scoring service."""

from __future__ import annotations

import click

from al_cli.console import console, json_option, open_platform, print_json


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Instead of serving.port; 0 takes any free one.")
@json_option
def serve(port: int | None, as_json: bool) -> None:
    """Run the scoring service until Ctrl-C.

    \b
    POST /score          raw bytes, multipart, or JSON; answers labels and probabilities
    POST /log            what a model that is served elsewhere answered, as JSON; goes into the log
    GET  /health/live    the process is there
    GET  /health/ready   a model serves, which, and how it goes
    GET  /metrics        for Prometheus

    Every answer is logged. The service follows the endpoint: a new deployment is loaded beside the old one and
    takes over without a dropped request.
    """
    from al_serving.app import run_service

    def ready(address: str) -> None:
        if as_json:
            print_json({"scoring_service": address})
        else:
            console.print(f"scoring service: {address}")

    try:
        run_service(open_platform(), port=port, ready=ready)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
