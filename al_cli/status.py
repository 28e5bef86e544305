"""`al status`: how the loop stands."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from rich.box import SIMPLE
from rich.table import Table

from al_cli.console import console, escape, json_option, open_platform, print_json
from al_resources.platform import Platform

if TYPE_CHECKING:
    from al_resources.azure.checks import Finding
    from al_resources.ledgers import Ledgers

NEEDED = ("azure.kusto_uri", "azure.blob_account_url")  # without these two there is nothing to tell
SHOWN = 3  # names, of what there may be many
ROUNDS_SHOWN = 20  # the newest


@click.command()
@json_option
def status(as_json: bool) -> None:
    """How the loop stands: rounds, labels, models, and what waits for whom.

    Exit code 1 where a service in Azure cannot be asked: then only what lies on this machine is told.
    """
    from al_loop.status import progress
    from al_resources.delta_tables import one_look
    from al_serving import handed_over
    from al_serving.spool import waiting

    platform = _for_one_look(open_platform())
    in_spool, set_aside = waiting(platform.settings.home / "spool")
    spool: dict[str, int | None] = {"spooled_segments": in_spool, "segments_set_aside": set_aside}
    troubles = [found for found in azure_findings(platform) if found.outcome != "ok"]
    reachable = not any(found.name == "azure.blob_account_url" for found in troubles)
    spool["segments_in_blob_store"] = handed_over.waiting(platform.blobs) if reachable else None
    stopped = any(found.outcome == "out of reach" or found.name in NEEDED for found in troubles)
    with one_look():
        told = {} if stopped else progress(platform)
    facts = spool | {"unavailable": [asdict(found) for found in troubles]} | told
    if as_json:
        print_json(facts)
    else:
        _print(facts, platform.settings.home / "spool")
    if stopped:
        raise SystemExit(1)


def _for_one_look(platform: Platform) -> Platform:
    """The platform with each ledger read once, whoever asks for it."""
    from al_resources.ledgers import ReadOnce

    ledgers = cast("Ledgers", ReadOnce(platform.ledgers))
    if platform.profile.blobs_at_hand:
        return platform.with_parts(ledgers=ledgers, blobs=platform.blobs)
    return platform.with_parts(ledgers=ledgers)


def azure_findings(platform: Platform) -> list[Finding]:
    """What the services in Azure say, within seconds: the stores themselves would wait for a minute."""
    return platform.profile.findings(platform.settings)


def _print(facts: dict[str, Any], spool: Path) -> None:
    for service in facts["unavailable"]:
        console.print(f"[red]{service['outcome']}[/] {escape(service['detail'])}", soft_wrap=True)
    if facts["spooled_segments"] or facts["segments_set_aside"]:
        console.print(
            f"[yellow]spool[/] {facts['spooled_segments']} segments of predictions wait for the log, "
            f"{facts['segments_set_aside']} for a person, in {spool}"
        )
    if facts["segments_in_blob_store"]:
        console.print(
            f"[yellow]spool[/] {facts['segments_in_blob_store']} segments of predictions wait in the blob store; "
            "prediction_log delivers them"
        )
    if "rounds" in facts:
        print_progress(facts)


def print_progress(facts: dict[str, Any]) -> None:
    """The facts of `progress`, for people."""
    waits = facts["waits_for"]
    told = escape(f"{waits['what']}; {waits['ends']}")
    console.print(f"[bold]waits for {waits['whom']}[/] {told}", soft_wrap=True)
    champion = "none yet" if facts["champion"] is None else f"v{facts['champion']}"
    traffic = ", ".join(f"{name} {share} %" for name, share in sorted(facts["traffic"].items()) if share)
    console.print(f"[bold]champion[/] {champion}   traffic {traffic or 'none'}")
    console.print(
        f"{facts['images']} images, {facts['predictions']} predictions, {facts['eligible_images']} eligible, "
        f"{facts['labels']} labeled, {facts['waiting_for_labels']} waiting for a label"
    )
    for line in [*_about_labeling(facts), *_monitoring(facts["monitoring"])]:
        console.print(line, soft_wrap=True)
    if facts["rejected_images"]:
        console.print(f"{facts['rejected_images']} files were rejected: they are no readable images")
    for failure in facts["failed_ingestions"]:
        console.print(f"[red]failed ingestion[/] {escape(failure)}; `al query failures --send-again` when it is mended")
    _print_exports(facts)
    if facts["events"]:
        console.print("{waiting} events wait in the queue".format(**facts["events"]))
        if facts["events"]["poison"]:
            console.print("[red]{poison} messages in the poison queue[/]: no blob events".format(**facts["events"]))
    console.print(rounds_table(facts["rounds"]))
    for row in facts["rounds"]:
        if failure := row["failure"]:
            console.print(
                f"[red]round {row['round']} failed[/] in {escape(failure['step'])}: {escape(failure['reason'])}; "
                "run it again from the Runs page",
                soft_wrap=True,
            )


def _print_exports(facts: dict[str, Any]) -> None:
    """What became of the files in the inbox: each that is not wholly in, by name and with the reason."""
    if facts["exports"]:
        counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in facts["exports"].items())
        console.print(f"[bold]exports[/] {counts}")
    if waiting := facts["unmerged_exports"]:
        console.print(f"[yellow]in the inbox[/] {len(waiting)} exports wait: {_some(waiting)}", soft_wrap=True)
    if gone := facts["gone_exports"]:
        console.print(f"[red]gone[/] {len(gone)} exports, deleted before they were read: {_some(gone)}", soft_wrap=True)
    for export in facts["quarantined"]:
        console.print(f"[red]quarantined[/] {escape(export['path'])}: {escape(export['reason'])}")
    for path, reason in facts["unfit_exports"].items():
        console.print(f"[red]cannot be read[/] {escape(path)}: {escape(reason)}", soft_wrap=True)
    for export in facts["set_aside"]:
        told = escape(f"{export['path']}: {export['reason']}")
        console.print(f"[yellow]set aside[/] {export['set_aside']} rows of {told}", soft_wrap=True)


def _monitoring(found: dict[str, Any]) -> list[str]:
    """Drift and accuracy on the traffic, a line each; a guess without labels never stands alone."""
    drift, accuracy = found["drift"], found["accuracy"]
    guess = accuracy["without_labels"]
    beside = "" if guess is None else f" (guessed without labels: {guess:.3f})"
    lower = "[yellow]accuracy[/]" if accuracy["surely_lower"] else "[bold]accuracy[/]"
    return [
        ("[yellow]drift[/] " if drift["alarm"] else "[bold]drift[/] ") + escape(drift["sentence"]),
        f"{lower} {escape(accuracy['sentence'])}{beside}",
    ]


def _some(paths: list[str]) -> str:
    return escape(", ".join(paths[:SHOWN])) + (" ..." if len(paths) > SHOWN else "")


def _labeling(found: dict[str, Any]) -> str:
    """What the labeling tool says of itself."""
    if "error" in found:
        return f"[red]labeling[/] {escape(found['error'])}"
    of = f" in project {escape(found['project'])}" if found["project"] else " of the newest round"
    return (
        f"[bold]labeling[/] {found['labeled']} of {found['total']} images{of} are labeled, {found['skipped']} skipped"
    )


def _about_labeling(facts: dict[str, Any]) -> list[str]:
    """How far the tool has come, and what is known of the people."""
    return [*([_labeling(facts["labeling"])] if facts["labeling"] else []), *_people(facts["people"])]


def _people(found: dict[str, Any]) -> list[str]:
    """What a label takes, and who agrees with the others; nothing where no tool tells."""
    timed = [row for row in [*found["modes"], *found["annotators"]] if row["seconds"] is not None]
    costs = [f"{row.get('mode') or row['annotator']} {row['seconds']:.1f} s" for row in timed]
    agreed = [
        f"{row['annotator']} {row['agreed']} of {row['compared']}" for row in found["annotators"] if row["compared"]
    ]
    parts = []
    if costs:
        parts.append(f"[bold]a label takes[/] {escape(', '.join(costs))} (medians)")
    if agreed:
        alpha = f", alpha {found['alpha']:.2f}" if found["alpha"] is not None else ""
        parts.append(f"[bold]agreeing with the others[/] {escape(', '.join(agreed))}{alpha}")
    if len(found["pairs"]) > 1:  # of two people the line above told it all
        told = [f"{one['first']} and {one['second']} {_share(one)}" for one in found["pairs"][:SHOWN]]
        parts.append(f"[bold]pairs that agree least[/] {escape(', '.join(told))}")
    return parts


def _share(pair: dict[str, Any]) -> str:
    """How often two people agree, and how sure that is."""
    between = f"{pair['low']:.2f} to {pair['high']:.2f}"
    return f"{pair['agreed']} of {pair['compared']} ({between})"


def rounds_table(rows: list[dict[str, Any]]) -> Table:
    """The newest rounds as the demo and `al status` show them; what was paid is of all."""
    paid, earlier = _paid(rows), len(rows[:-ROUNDS_SHOWN])
    table = Table(
        title=f"{earlier} earlier rounds: al status --json" if earlier else None,
        caption=(f"labels paid: {paid}\n" if paid else "") + "accuracy on the holdout, with its 95 % interval",
        box=SIMPLE,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
    )
    narrow = console.width < 90  # then the strategy is shortened, never a figure
    for column, justify, width in (
        ("round", "right", 5),
        ("strategy", "left", 8),
        ("labels", "right", 7),
        ("trained", "right", 7),
        ("model", "right", 5),
        ("accuracy", "left", 20),
        ("outcome", "left", 8),
        *([] if narrow else [("serves", "right", 6)]),
    ):
        most = width if narrow else None
        table.add_column(column, justify=justify, min_width=width, max_width=most, no_wrap=True)  # type: ignore[arg-type]
    for row in rows[-ROUNDS_SHOWN:]:
        accuracy = row["accuracy"]
        colour = {"promoted": "green", "refused": "red", "failed": "red"}.get(row["outcome"], "yellow")
        table.add_row(
            str(row["round"]),
            row["strategy"] or "",
            _out_of(row["labeled"], row["selected"]),
            "" if row["training_labels"] is None else str(row["training_labels"]),
            "" if row["model_version"] is None else f"v{row['model_version']}",
            "" if accuracy is None else "{value:.3f} [{low:.3f}, {high:.3f}]".format(**accuracy),
            f"[{colour}]{row['outcome']}[/]",
            *([] if narrow else ["" if row["serves"] is None else f"v{row['serves']}"]),
        )
    return table


def _paid(rows: list[dict[str, Any]]) -> str:
    """How many labels people gave for each reason, in all rounds."""
    counts = Counter[str]()
    for row in rows:
        counts.update(row["paid"])
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


def _out_of(done: int, total: int) -> str:
    return str(total) if done == total else f"{done}/{total}"
