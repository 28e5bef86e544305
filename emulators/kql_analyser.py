"""Microsoft's own KQL analyser (`@kusto/language-service-next`), running beside the tests: valid or not, and why."""

from __future__ import annotations

import atexit
import json
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from emulators.node_packages import node, node_modules

SCRIPT = Path(__file__).with_name("analyse_kql.js")
Schema = Mapping[str, Mapping[str, str]]  # table -> column -> KQL type


@dataclass(frozen=True)
class Analysis:
    """What is wrong with a text, and the columns it answers with, as "name:type"."""

    diagnostics: list[str]
    columns: list[str]


class KqlAnalyser:
    """One process for all questions: loading the analyser takes seconds, a question milliseconds."""

    def __init__(self) -> None:
        """Raises `NotInstalled`."""
        command = [node(), str(SCRIPT), str(node_modules())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()
        atexit.register(self._process.kill)

    def analyse(self, texts: list[str], schema: Schema) -> list[Analysis]:
        """Each text on a database with these tables."""
        tables = {
            name: f"({', '.join(f'{column}:{kind}' for column, kind in columns.items())})"
            for name, columns in schema.items()
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"schema": tables, "texts": texts}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the KQL analyser ended with {self._process.wait()}; its last words are above")
        return [Analysis(**one) for one in json.loads(answer)]


@lru_cache(maxsize=1)
def shared_analyser() -> KqlAnalyser:
    """One for the whole process. Raises `NotInstalled`."""
    return KqlAnalyser()
