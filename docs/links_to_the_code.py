"""A hook of mkdocs: links out of the documentation become the name of the file, which the pages do not hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\(\.\./(?P<file>[^)#]+)(?:#[^)]*)?\)")
ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **others: Any) -> str:
    """The page with such links as the name of the file. Raises `FileNotFoundError` where there is no such file."""
    del others

    def named(found: re.Match[str]) -> str:
        if not (ROOT / found["file"]).exists():
            raise FileNotFoundError(f"a page links to ../{found['file']}, which is not there")
        return f"{found['text']} (`{found['file']}`)"

    return OUTSIDE.sub(named, markdown)
