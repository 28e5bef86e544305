"""Errors at the command line: one line for what a person can mend, `--debug` for who wants to know where."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from al_core.errors import ActiveLearningError, InvalidInput, NotThere, Unavailable

Al = Callable[..., subprocess.CompletedProcess[str]]


def test_one_line_and_with_debug_the_traceback(al: Al, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "al.toml"
    config.write_text('home = "data"\n')
    short = al("trace", "v7", config=config)
    assert short.returncode == 1
    assert short.stderr == "Error: classifier has no version 7; there are: none yet\n"
    monkeypatch.setenv("AL_CONFIG", str(config))
    long = al("--debug", "trace", "v7")
    assert long.returncode == 1
    assert long.stderr.startswith("Traceback")
    assert long.stderr.endswith(short.stderr)


@pytest.mark.parametrize("kind", [InvalidInput, NotThere, Unavailable])
def test_all_of_the_family_say_their_sentence_as_it_is(kind: type[ActiveLearningError]) -> None:
    assert str(kind("the sentence; the way out")) == "the sentence; the way out"
