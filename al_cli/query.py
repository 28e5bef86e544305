"""`al query`: what the prediction log says over time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE
from rich.table import Table

from al_cli.console import console, escape, json_option, open_platform, print_json

if TYPE_CHECKING:
    import polars as pl

    from al_loop.monitoring import DriftLook
    from al_loop.questions import Question
    from al_resources.platform import Platform

EVERY = ("5m", "1h", "1d")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
QUESTIONS: dict[Question, str] = {
    "volume": "How many predictions there are, of how many different images.",
    "confidence": "How sure the model is, over time.",
    "classes": "How often each class is predicted.",
    "latency": "How long answers take, in milliseconds.",
    "scores": "Histograms of the scores, to compare one step with another.",
    "shift": "How far scores and class mix lie from the version's first step (stability index); no alarm, see drift.",
    "control": "How often the model is right on control images, by the day of their drawing; see accuracy.",
}


class Moment(click.ParamType[datetime]):
    """A date, a time, or an age like 7d."""

    name = "7d|date|time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: D102
        if isinstance(value, datetime):
            return value
        if match := re.fullmatch(r"(\d{1,6})([mhdw])", value):
            return datetime.now(UTC) - timedelta(**{UNITS[match[2]]: int(match[1])})
        try:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            self.fail(f"{value!r} is neither an age (90m, 36h, 7d, 4w) nor a date or time like 2026-01-31T09:00")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


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


_version_option = click.option("--version", type=int, help="Another version than the one that serves.")
_kql_option = click.option("--show-kql", is_flag=True, help="Print the query that draws the sample, instead.")


@query.command()
@_version_option
@click.option("--sheet", type=click.Path(dir_okay=False), help="Write pictures of the images that differ to this PNG.")
@_kql_option
@json_option
def drift(version: int | None, sheet: str | None, show_kql: bool, as_json: bool) -> None:
    """Does the traffic look as it did when the version began?

    Looks, and puts the look on record: all looks of a year together raise a false alarm with monitoring.alpha. Figures
    beside the p-value say what changed, and raise no alarm of their own.
    """
    from al_loop.monitoring import different_images
    from al_loop.monitoring import drift as look_now

    platform = open_platform()
    if show_kql:
        click.echo(_sample_kql(platform, version, ("image_id", "image_key", "predicted_label", "confidence")))
        return
    state = look_now(platform, version)
    named = different_images(platform, state.version) if state.alarm and state.version is not None else None
    if sheet:
        _write_sheet(platform, named, sheet)
    if as_json:
        facts = {"alarm": state.alarm, "sentence": state.sentence, "quiet_days": state.quiet_days}
        shown = [] if named is None else named["image_id"].to_list()
        print_json(facts | {"look": state.look and state.look.model_dump(mode="json"), "different_images": shown})
        return
    console.print(f"[{'yellow' if state.alarm else 'bold'}]drift[/] {escape(state.sentence)}", soft_wrap=True)
    if state.look is not None:
        for line in _drift_lines(state.look):
            console.print(f"  {escape(line)}", soft_wrap=True)
    if named is not None:
        console.print(
            f"  {named.height} images differ most; `al query drift --sheet FILE.png` shows them", soft_wrap=True
        )


@query.command()
@_version_option
@_kql_option
@json_option
def accuracy(version: int | None, show_kql: bool, as_json: bool) -> None:
    """How often versions are right on their traffic, by the control slices drawn from it.

    The intervals hold at all looks together. Beside them, what could be guessed without labels.
    """
    from al_loop.monitoring import accuracy as measured

    platform = open_platform()
    if show_kql:
        click.echo(_sample_kql(platform, version, ("image_id", "predicted_label", "confidence")))
        return
    state = measured(platform, version)
    rows = [
        {
            "version": point.version,
            "round": point.round,
            "labels": point.labels,
            "accuracy": point.accuracy.value,
            "low": point.accuracy.low,
            "high": point.accuracy.high,
            "labels_alone": point.from_labels_alone,
            "guess_without_labels": point.without_labels,
        }
        for point in state.points
    ]
    if as_json:
        print_json({"sentence": state.sentence, "surely_lower": state.surely_lower, "points": rows})
        return
    console.print(escape(state.sentence), soft_wrap=True)
    if rows:
        import polars as pl

        console.print(_table(pl.DataFrame(rows, infer_schema_length=None), "1d"))


def _sample_kql(platform: Platform, version: int | None, columns: Sequence[str]) -> str:
    """The query with which Data Explorer draws a sample of the last day's traffic."""
    from al_core.strategies.base import Order
    from al_resources.prediction_store.kusto import sample_query

    version = platform.endpoint.state().serving_version if version is None else version
    now = datetime.now(UTC)
    window, limit = (now - timedelta(days=1), now), platform.settings.monitoring.window_images
    name = platform.settings.model.name
    return sample_query(name, version or 0, window, Order("random", seed=0), limit, columns).shown


def _write_sheet(platform: Platform, named: pl.DataFrame | None, path: str) -> None:
    from al_assets.views import SHEET_IMAGES, different_sheet_png

    if named is None or named.is_empty():
        raise click.UsageError("no alarm stands, so no images are named")
    if (png := different_sheet_png(platform, named.head(SHEET_IMAGES))) is None:
        raise click.UsageError("none of the images that differ can be read any more")
    Path(path).write_bytes(png)


def _drift_lines(look: DriftLook) -> list[str]:
    """What a look has seen, line by line."""
    lines = [
        f"compared by {look.features}; {look.auc:.3f} of pairs told apart (0.5: not at all)",
        f"window {look.since:%Y-%m-%d %H:%M} to {look.newest:%Y-%m-%d %H:%M} UTC, look {look.number} of {look.day}",
        f"class mix: stability index {look.class_psi:.3f}, chi-square p {look.class_p_value:.2g} (of this look)",
        f"confidence: stability index {look.confidence_psi:.3f}",
        "predictions a day: {:.0f}, then {:.0f}".format(*look.predictions_per_day),
    ]
    if look.latency_ms is not None:
        lines.append("median latency: {:.1f} ms, then {:.1f} ms".format(*look.latency_ms))
    if look.reserved_only:
        lines.append("reserved images alone: the version was trained on some of the others")
    return lines + [f"left out: {count} images, {why}" for why, count in look.left_out.items()]


@query.command()
def dashboard() -> None:
    """Print all of these questions as a dashboard file, which the web page of Data Explorer imports."""
    import json

    from al_loop.dashboard import dashboard as made_of
    from al_resources.settings import load_settings

    settings = load_settings()
    cluster = settings.azure.kusto_uri or "https://<cluster>.<region>.kusto.windows.net"
    click.echo(json.dumps(made_of(settings.model.name, cluster, settings.azure.kusto_database), indent=2))


@query.command()
@click.option("--send-again", is_flag=True, help="Queue these rows again, once what kept them out is mended.")
@json_option
def failures(send_again: bool, as_json: bool) -> None:
    """Queued rows that Data Explorer could not take."""
    from al_resources.prediction_store.kusto import KustoPredictionStore
    from al_resources.prediction_store.referring import engine_of

    store = engine_of(open_platform().predictions)
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
