"""Text from outside, shown harmlessly: class names, annotators, file names and reasons are whatever somebody sent.

Control characters move a terminal's cursor, retitle its window or answer for the person at it; characters that turn the
direction of writing make one name look like another. They are shown as escapes, so that they are still seen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_TURNING = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # embeddings, overrides and isolates of direction
_LINES = [0x2028, 0x2029]
_SURROGATES = range(0xD800, 0xE000)  # halves of characters, which no stream can encode
_VISIBLE = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in [*_CONTROLS, *_TURNING, *_LINES, *_SURROGATES]
}
_VISIBLE_IN_LINES = {code: shown for code, shown in _VISIBLE.items() if chr(code) not in "\n\t"}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#|!~])")
_FORMULA = r"^[=+\-@\t\r]"  # what spreadsheets compute instead of showing


def harmless(text: str) -> str:
    """`text` in one line; what would act on a terminal or a reader is shown as an escape, like `\\x1b`."""
    return text.translate(_VISIBLE)


def harmless_lines(text: str) -> str:
    """As `harmless`, with line ends and tabs left as they are: for whole texts of ours with names in them."""
    return text.translate(_VISIBLE_IN_LINES)


def plain_in_markdown(text: str) -> str:
    """`text` so that Markdown shows it and neither formats it nor loads a picture from elsewhere."""
    return _MARKDOWN.sub(r"\\\1", harmless(text))


def without_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` for a CSV file that people open in a spreadsheet: text that it would compute begins with a quote."""
    import polars as pl

    return frame.with_columns(
        pl.when(pl.col(pl.String).str.contains(_FORMULA))
        .then(pl.lit("'") + pl.col(pl.String))
        .otherwise(pl.col(pl.String))
        .name.keep()
    )
