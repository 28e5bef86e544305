"""Text from outside, shown harmlessly: in the terminal, in JSON, in metadata, in reports, in spreadsheets."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from al_assets import views
from al_cli.console import HarmlessConsole, escape, print_json
from al_cli.main import main
from al_cli.status import status
from al_core.records import EXPORTS, table_of, utc_now
from al_core.shown_text import harmless, plain_in_markdown, without_formulas
from al_resources.platform import Platform

HOSTILE = "cat\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\n[bold red]\ud800"


def acts(text: str) -> list[str]:
    """The characters of a text that do more than stand there."""
    return [one for one in text if (unicodedata.category(one) in ("Cc", "Cs") and one != "\n") or one in "\u202e\u2028"]


@given(st.text(st.characters()))
def test_whatever_text_comes_one_harmless_line_that_can_be_written_is_left(text: str) -> None:
    shown = harmless(text)
    assert acts(shown) == []
    assert "\n" not in shown
    shown.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_text_of_letters_in_any_script_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_what_would_act_is_still_seen() -> None:
    assert harmless("a\x1b[2Jb\u202ec\x9b") == "a\\x1b[2Jb\\u202ec\\x9b"


def test_on_the_console_neither_escapes_nor_markup_of_a_stranger_act() -> None:
    file = io.StringIO()
    console = HarmlessConsole(file=file, force_terminal=True, width=200, color_system="standard", highlight=False)
    table = Table()
    table.add_row(escape(HOSTILE))
    console.print(table, f"[green]fine[/] {escape(HOSTILE)}")
    console.print(f"not escaped: {HOSTILE}", markup=False)
    said = file.getvalue()
    assert said.count("[bold red]") == 3
    assert "\x1b]0;" not in said
    assert "\x1b[2J" not in said
    assert "\x9b" not in said
    assert "\x1b[32mfine" in said, "the console's own codes do"


def test_json_is_the_same_and_acts_on_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": HOSTILE.replace("\ud800", ""), "über": "日本"}
    print_json(value)
    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert acts(said) == []
    assert "日本" in said


def test_an_error_shows_a_hostile_name_as_an_escape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["al", "--config", str(tmp_path / "\x1b[2J.toml"), "status"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "\\x1b[2J.toml" in said
    assert acts(said) == []


def test_status_shows_hostile_exports_harmlessly(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "labeling/exports/cat\u202egnp.exe[bold red].json"  # a store takes no control characters in names
    platform.blobs.write(path, b"{}")
    row: dict[str, Any] = {
        "export_id": "1",
        "path": path,
        "etag": platform.blobs.info(path).etag,
        "status": "quarantined",
        "reason": f"class {HOSTILE[:-1]!s} is unknown",
        "recorded_at": utc_now(),
    }
    platform.ledgers.insert_new("exports", table_of(EXPORTS, [row]), ["export_id"])
    monkeypatch.setattr("al_cli.status.open_platform", lambda: platform)
    said = CliRunner().invoke(status, []).output
    assert "quarantined" in said
    assert "[bold red]" in said
    assert acts(said) == []


def test_tables_and_lists_of_the_ui_are_harmless() -> None:
    shown = views.table(pl.DataFrame({"name": [HOSTILE[:-1], None], "count": [1, 2]}))
    records: Any = shown
    hostile, missing = (record.data["name"] for record in records.records)
    assert acts(hostile) == []
    assert missing is None
    assert plain_in_markdown("![x](http://evil.example) <b> `a`") == r"\!\[x\]\(http://evil.example\) \<b\> \`a\`"


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    frame = pl.DataFrame({"class": ["=1+1", "+1", "-1", "@a", "cat", None], "accuracy": [-0.5, 1, 1, 1, 1, 1]})
    without_formulas(frame).write_csv(tmp_path / "results.csv")
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines == ["class,accuracy", "'=1+1,-0.5", "'+1,1.0", "'-1,1.0", "'@a,1.0", "cat,1.0", ",1.0"]
