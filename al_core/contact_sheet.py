"""Contact sheets: many pictures at once, small, with a caption each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont


@dataclass(frozen=True)
class SheetItem:
    """One picture of a contact sheet and up to two short lines below it."""

    image: Image.Image
    lines: tuple[str, ...] = ()


def contact_sheet(items: Sequence[SheetItem], *, columns: int = 7, edge: int = 96, max_bytes: int = 150_000) -> bytes:
    """Thumbnails in rows, captions below, as one PNG of at most `max_bytes` where 60 or fewer are shown.

    Seven columns are what Dagster's page of an asset has room for beside the names, on a screen of 1 500 pixels.
    Small images are enlarged without smoothing, so that their pixels stay what they are. Colours, then size
    are given up until the sheet fits.

    Raises:
        ValueError: there is nothing to show.
    """
    if not items:
        raise ValueError("a contact sheet needs at least one image")
    sheet = b""
    for colours, scale in ((256, 1.0), (64, 1.0), (64, 0.75), (32, 0.5), (8, 0.5)):
        drawn = _draw_sheet(items, min(columns, len(items)), round(edge * scale))
        buffer = io.BytesIO()
        drawn.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        sheet = buffer.getvalue()
        if len(sheet) <= max_bytes:
            break
    return sheet


def _draw_sheet(items: Sequence[SheetItem], columns: int, edge: int) -> Image.Image:
    gap, line = 6, 12
    caption = line * max(len(item.lines) for item in items)
    rows = -(-len(items) // columns)
    cell = (edge + gap, edge + caption + gap)
    sheet = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(10)
    for position, item in enumerate(items):
        left = gap + position % columns * cell[0]
        top = gap + position // columns * cell[1]
        thumbnail = _thumbnail(item.image, edge)
        sheet.paste(thumbnail, (left + (edge - thumbnail.width) // 2, top + (edge - thumbnail.height) // 2))
        for number, text in enumerate(item.lines):
            place = (left, top + edge + number * line)
            draw.text(place, _shortened(text, edge, draw, font), "black", font)
    return sheet


def _thumbnail(image: Image.Image, edge: int) -> Image.Image:
    scale = edge / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smoothing = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, smoothing, reducing_gap=2.0 if scale < 1 else None)


def _shortened(
    text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> str:
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
