"""The questions to the log as files for other people's tools: a dashboard of Data Explorer, and a notebook.

Each query in them is the one that `questions.kql` asks; nothing is written a second time.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from al_loop.questions import Every, Question, Window, kql

SCHEMA = 63  # of Data Explorer's dashboard files
COLUMNS, HEIGHT = 24, 8  # of the grid; of a tile
TILES: dict[Question, tuple[str, str]] = {  # title, kind of picture
    "volume": ("Predictions and images", "line"),
    "confidence": ("How sure the model is", "line"),
    "classes": ("Share of each predicted class", "stackedarea"),
    "latency": ("Latency in milliseconds", "line"),
    "scores": ("Histograms of the scores", "table"),
    "shift": ("Drift: scores and classes against the first step", "line"),
    "control": ("Accuracy on control images", "line"),
}
DRAWN: dict[Question, tuple[list[str], list[str]]] = {  # y columns, series
    "volume": (["predictions", "images"], ["model_version", "source"]),
    "confidence": (["confidence", "lowest_tenth", "median"], ["model_version"]),
    "classes": (["share"], ["model_version", "predicted_label"]),
    "latency": (["median_ms", "p95_ms", "p99_ms"], ["model_version"]),
    "scores": ([], []),
    "shift": (["psi"], ["model_version", "what"]),
    "control": (["accuracy"], ["model_version"]),
}
_PAGES: dict[Every, str] = {"1d": "By day", "1h": "By hour"}
_NAMESPACE = uuid.UUID("8a4e3f0e-2c1b-4f6e-9a57-5d0c7b9f1e21")
_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)  # texts hold no moment


def dashboard(model_name: str, cluster: str, database: str) -> dict[str, Any]:
    """A dashboard as Data Explorer's web page takes it (*New dashboard > Import from file*).

    Its time range fills the queries' `_since` and `_until`, its list of models `_name`.
    """
    source, tiles, queries = _id("source"), [], []
    for every, page in _PAGES.items():
        for place, (question, (title, picture)) in enumerate(TILES.items()):
            key = f"{question} {every}"
            layout = {"x": place % 2 * COLUMNS // 2, "y": place // 2 * HEIGHT, "width": COLUMNS // 2, "height": HEIGHT}
            tiles.append(
                {
                    "id": _id(f"tile {key}"),
                    "title": title,
                    "visualType": picture,
                    "pageId": _id(page),
                    "layout": layout,
                    "queryRef": {"kind": "query", "queryId": _id(f"query {key}")},
                    "visualOptions": _options(question),
                }
            )
            queries.append(
                {
                    "id": _id(f"query {key}"),
                    "dataSource": {"kind": "inline", "dataSourceId": source},
                    "text": _text(question, every),
                    "usedVariables": ["_name", "_since", "_until"],
                }
            )
    return {
        "$schema": f"https://dataexplorer.azure.com/static/d/schema/{SCHEMA}/dashboard.json",
        "id": _id("dashboard"),
        "eTag": _id("first"),
        "title": "Active learning: what the log says",
        "schema_version": str(SCHEMA),
        "tiles": tiles,
        "baseQueries": [],
        "parameters": [_time_range(), _models(model_name)],
        "dataSources": [
            {
                "id": source,
                "name": database,
                "clusterUri": cluster,
                "database": database,
                "kind": "manual-kusto",
                "scopeId": "kusto",
            }
        ],
        "pages": [{"name": name, "id": _id(name)} for name in _PAGES.values()],
        "queries": queries,
    }


def _text(question: Question, every: Every) -> str:
    return kql(question, Window("", _SOME_TIME, _SOME_TIME + timedelta(days=1), every)).text


def _time_range() -> dict[str, Any]:
    return {
        "kind": "duration",
        "id": _id("time range"),
        "displayName": "Time range",
        "description": "",
        "beginVariableName": "_since",
        "endVariableName": "_until",
        "defaultValue": {"kind": "dynamic", "count": 30, "unit": "days"},
        "showOnPages": {"kind": "all"},
    }


def _models(model_name: str) -> dict[str, Any]:
    return {
        "kind": "string",
        "id": _id("models"),
        "displayName": "Model",
        "description": "model.name",
        "variableName": "_name",
        "selectionType": "array",
        "includeAllOption": False,
        "defaultValue": {"kind": "values", "values": [model_name]},
        "dataSource": {"kind": "static", "values": [{"value": model_name, "displayText": model_name}]},
        "showOnPages": {"kind": "all"},
    }


def _options(question: Question) -> dict[str, Any]:
    besides = {"crossFilterDisabled": False, "drillthroughDisabled": False, "crossFilter": [], "drillthrough": []}
    y, series = DRAWN[question]
    if not y:
        return besides
    base = {"id": "-1", "label": "", "columns": [], "yAxisScale": "linear", "horizontalLines": []}
    return {
        "xColumn": {"type": "specified", "value": "at"},
        "yColumns": {"type": "specified", "value": y},
        "seriesColumns": {"type": "specified", "value": series},
        "multipleYAxes": {
            "base": base | {"yAxisMinimumValue": None, "yAxisMaximumValue": None},
            "additional": [],
            "showMultiplePanels": False,
        },
        "hideLegend": False,
        **besides,
    }


def _id(what: str) -> str:
    """The same for the same thing, so that a file that is made again replaces what it made."""
    return str(uuid.uuid5(_NAMESPACE, what))


# ---------------------------------------------------------------------- the notebook
_CELLS = [
    (
        "markdown",
        "# What the prediction log says over time\n\n"
        "The same questions as `al query`, as Polars frames. Settings come from `al.toml` here or from `$AL_CONFIG`:\n"
        'with `profile = "azure"` Data Explorer answers, else the Delta table does, and the answers are the same.',
    ),
    (
        "code",
        "from datetime import UTC, datetime, timedelta\n\n"
        "import matplotlib.pyplot as plt\n\n"
        "from al_loop.monitoring import accuracy, drift_on_record\n"
        "from al_loop.questions import Window, ask, kql\n"
        "from al_resources.platform import Platform\n"
        "from al_resources.settings import load_settings\n\n"
        "platform = Platform(load_settings())\n"
        "now = datetime.now(UTC)\n"
        'window = Window(platform.settings.model.name, now - timedelta(days=30), now, every="1d")',
    ),
    ("markdown", "How much there is, how sure the model is, how long answers take."),
    ("code", 'volume = ask(platform.predictions, "volume", window)\nvolume'),
    (
        "code",
        'confidence = ask(platform.predictions, "confidence", window)\n'
        "figure, axes = plt.subplots(figsize=(8, 3))\n"
        'for (version,), rows in confidence.group_by("model_version", maintain_order=True):\n'
        '    axes.plot(rows["at"], rows["confidence"], marker="o", label=f"v{version}")\n'
        '    axes.fill_between(rows["at"], rows["lowest_tenth"], rows["median"], alpha=0.2)\n'
        'axes.set(ylabel="confidence", ylim=(0, 1))\n'
        "if len(confidence):\n"
        "    axes.legend()\n"
        "figure.autofmt_xdate()",
    ),
    ("code", 'latency = ask(platform.predictions, "latency", window)\nlatency'),
    (
        "markdown",
        "Drift: scores and class mix of each day against those of the version's first day, as population stability\n"
        "index. Above 0.25 people speak of a large shift. This is a picture, no alarm: below it stands what the test\n"
        "on the images has seen, whose false alarms are bounded by the year.",
    ),
    (
        "code",
        'drift = ask(platform.predictions, "shift", window)\n'
        "figure, axes = plt.subplots(figsize=(8, 3))\n"
        'for (version, what), rows in drift.group_by("model_version", "what", maintain_order=True):\n'
        '    axes.plot(rows["at"], rows["psi"], marker="o", label=f"v{version} {what}")\n'
        'axes.axhline(0.25, color="grey", linestyle="--")\n'
        'axes.set(ylabel="stability index")\n'
        "if len(drift):\n"
        "    axes.legend()\n"
        "figure.autofmt_xdate()",
    ),
    ("code", "print(drift_on_record(platform).sentence)"),
    (
        "markdown",
        "Accuracy: how often versions are right on the control images drawn from their traffic, day by day as they\n"
        "were drawn, and with intervals that hold at every look.",
    ),
    (
        "code",
        'control = ask(platform.predictions, "control", window)\n'
        "right = accuracy(platform)\n"
        "print(right.sentence)\n"
        "for point in right.points:\n"
        '    print(f"v{point.version}, round {point.round}: {point.accuracy} by {point.labels} labels")\n'
        "control",
    ),
    ("markdown", "The question as Data Explorer is asked it, for its web page or another tool."),
    ("code", 'print(kql("shift", window).shown)'),
]


def notebook() -> dict[str, Any]:
    """A notebook that asks the platform of the settings, without outputs."""
    cells = []
    for number, (kind, text) in enumerate(_CELLS):
        lines = text.splitlines(keepends=True)
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


assert set(TILES) == set(DRAWN) == set(get_args(Question))
