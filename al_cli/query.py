"""`al query`: what the prediction log says over time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE
from rich.table import Table

from al_cli.console import console, escape, json_option, open_platform, print_json

if TYPE_CHECKING:
    import polars as pl

    from al_loop.questions import Question

EVERY = ("5m", "1h", "1d")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
QUESTIONS: dict[Question, str] = {
    "volume": "How many predictions there are, of how many different images.",
    "confidence": "How sure the model is, over time.",
    "classes": "How often each class is predicted.",
    "latency": "How long answers take, in milliseconds.",
    "drift": "Histograms of the scores, to compare one step with another.",
}


class Moment(click.ParamType[datetime]):
    """A date, a time, or an age like 7d."""

    name = "7d|date|time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: D102
        if isinstance(value, datetime):
            return value
        if match := re.fullmatch(r"(\d{1,6})([mhdw])", value):
            return datetime.now(timezone.utc) - timedelta(**{UNITS[match[2]]: int(match[1])})
        try:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            self.fail(f"{value!r} is neither an age (90m, 36h, 7d, 4w) nor a date or time like 2026-01-31T09:00")
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


@click.group()
def query() -> None:
    """What the prediction log says over time. Times are UTC."""


def _command(question: Question, text: str) -> click.Command:
    @click.command(question, help=text)
    @click.option("--since", type=Moment(), default="7d", show_default=True, help="From when on.")
    @click.option("--until", type=Moment(), default="0m", help="Until when (exclusive); now by default.")
    @click.option("--every", type=click.Choice(EVERY), default="1d", show_default=True, help="One row per step.")
    @click.option("--version", "model_version", type=int, help="Only this version of the model.")
    @click.option("--show-kql", is_flag=True, help="Print the question in KQL instead of asking it.")
    @json_option
    def command(
        since: datetime, until: datetime, every: Any, model_version: int | None, show_kql: bool, as_json: bool
    ) -> None:
        from al_loop.questions import Window, ask, kql

        platform = open_platform()
        try:
            window = Window(platform.settings.model.name, since, until, every, model_version)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if show_kql:
            click.echo(kql(question, window).shown)
            return
        answer = ask(platform.predictions, question, window)
        if as_json:
            print_json([row | {"at": row["at"].isoformat()} for row in answer.to_dicts()])
        elif answer.is_empty():
            console.print(
                f"no predictions of {window.model_name} from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}"
            )
        else:
            console.print(_table(answer, every))

    return command


for _question, _text in QUESTIONS.items():
    query.add_command(_command(_question, _text))


@query.command()
@click.option("--send-again", is_flag=True, help="Queue these rows again, once what kept them out is mended.")
@json_option
def failures(send_again: bool, as_json: bool) -> None:
    """Queued rows that Data Explorer could not take."""
    from al_resources.prediction_store.kusto import KustoPredictionStore

    store = open_platform().predictions
    found = store.failures()
    sent = 0
    if send_again and found and isinstance(store, KustoPredictionStore):
        sent = store.database.send_failed_again(permanent=True)
    if as_json:
        print_json({"failures": found, "sent_again": sent})
        return
    for failure in found:
        console.print(escape(failure))
    console.print(f"{len(found)} failed ingestions" + (f", {sent} sent again" if send_again else ""))


def _table(answer: pl.DataFrame, every: str) -> Table:
    """For 80 columns: headings wrap and long names are cut, figures never."""
    import polars as pl

    moment = "%Y-%m-%d" if every == "1d" else "%m-%d %H:%M"
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for column in answer:
        cells, words = [_cell(value, moment) for value in column], column.name.split("_")
        name_like = column.dtype == pl.String
        table.add_column(
            " ".join(words),
            justify="right" if column.dtype.is_numeric() else "left",
            width=None if name_like else max(map(len, cells + words)),
            overflow="ellipsis",
        )
    for row in answer.iter_rows():
        table.add_row(*(escape(_cell(value, moment)) for value in row))
    return table


def _cell(value: Any, moment: str) -> str:
    if isinstance(value, datetime):
        return f"{value:{moment}}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
