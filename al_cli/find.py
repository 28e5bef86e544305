"""`al find`: images without a label that resemble something, as a contact sheet; and into the next batch."""

from __future__ import annotations

from pathlib import Path

import click

from al_cli.console import console, escape, json_option, open_platform, print_json


@click.command()
@click.option("--like", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="IMAGE",
              help="A picture of what is searched for; repeat it.")  # fmt: skip
@click.option("--class", "class_name", help="What resembles the labels of this class.")
@click.option("--text", help="What a text says, where the encoder knows text (CLIP, SigLIP).")
@click.option("--limit", type=click.IntRange(1, 500), default=60, show_default=True, help="Images to show.")
@click.option("--stage", "count", type=click.IntRange(1), metavar="N",
              help="Have the next batch ask about the first N; at most half of a batch, the rest waits.")  # fmt: skip
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), default="found.png", show_default=True)
@json_option
def find(
    like: tuple[Path, ...],
    class_name: str | None,
    text: str | None,
    limit: int,
    count: int | None,
    sheet: Path,
    as_json: bool,
) -> None:
    """Find images without a label that resemble pictures, a class or a text, by the embeddings of the log.

    For what is rare: a strategy that doubts everything finds it late. Images that judge are never among them.
    """
    import polars as pl

    from al_assets.views import contact_sheet_png
    from al_loop.searching import Query, stage
    from al_loop.searching import find as search

    if not (like or class_name or text):
        raise click.UsageError("say what is searched for: --like IMAGE, --class NAME or --text WORDS")
    platform = open_platform()
    found = search(platform, Query(like, class_name, text), max(limit, count or 0))
    shown = found.rows.head(limit).with_row_index("rank").with_columns(reason=pl.lit("search"))
    if shown.height:
        sheet.write_bytes(contact_sheet_png(platform, shown))
    staged = stage(platform, found, count) if count else 0
    if as_json:
        print_json(
            {"images": shown.select("image_id", "image_uri", "score").to_dicts(), "looked_at": found.looked_at,
             "without_embedding": found.left_out, "staged": staged}
        )  # fmt: skip
        return
    for row in shown.iter_rows(named=True):
        console.print(f"{row['score']:.3f}  {row['image_id']}  {escape(row['image_uri'])}")
    console.print(
        f"{shown.height} of {found.looked_at:,} images that nobody was asked about, by the embeddings of "
        f"v{found.model_version}" + (f"; {found.left_out:,} have none there" if found.left_out else "")
    )
    if shown.height:
        console.print(f"contact sheet: {sheet}")
    if count:
        console.print(f"{staged} of them wait for the next batch")
