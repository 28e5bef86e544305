"""Microsoft's own KQL analyser (`@kusto/language-service-next`), running beside the tests: valid or not, and why.

It builds its grammar anew in every process, for 15 seconds of a core. What it said of a text on a schema is therefore
kept beside its packages, and goes with them.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
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
        self._command = [node(), str(SCRIPT), str(node_modules())]
        whose = SCRIPT.read_bytes() + SCRIPT.with_name("package.json").read_bytes()  # names its version
        self._kept = node_modules() / ".analysed" / hashlib.sha256(whose).hexdigest()[:16]
        self._kept.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def analyse(self, texts: list[str], schema: Schema) -> list[Analysis]:
        """Each text on a database with these tables."""
        tables = {
            name: f"({', '.join(f'{column}:{kind}' for column, kind in columns.items())})"
            for name, columns in schema.items()
        }
        files = {text: self._file(text, tables) for text in texts}
        new = [text for text, file in files.items() if not file.is_file()]
        for text, answer in zip(new, self._asked(new, tables) if new else [], strict=True):
            own = files[text].with_suffix(f".{os.getpid()}.{threading.get_ident()}")
            own.write_text(json.dumps(answer))
            own.replace(files[text])  # whole, or not there
        return [Analysis(**json.loads(files[text].read_text())) for text in texts]

    def _file(self, text: str, tables: dict[str, str]) -> Path:
        return self._kept / f"{hashlib.sha256(json.dumps([tables, text]).encode()).hexdigest()}.json"

    def _asked(self, texts: list[str], tables: dict[str, str]) -> list[dict[str, list[str]]]:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                atexit.register(self._process.kill)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps({"schema": tables, "texts": texts}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            if not answer:
                raise RuntimeError(f"the KQL analyser ended with {self._process.wait()}; its last words are above")
        return list(json.loads(answer))


@lru_cache(maxsize=1)
def shared_analyser() -> KqlAnalyser:
    """One for the whole process. Raises `NotInstalled`."""
    return KqlAnalyser()
