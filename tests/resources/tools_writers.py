"""Tools' own writers, each in an environment of its own: what they write is read by the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from emulators.node_packages import INSTALL_SECONDS, run_installer

ROOT = Path(__file__).parents[2]
DATUMARO = "datumaro==1.13.12"
LABEL_STUDIO = "label-studio-sdk==2.1.2"

# pictures: name without ending -> class, or none; as CVAT hands a task over to Datumaro
WRITE_DATUMARO = """
import json, sys
import numpy as np
import datumaro as dm
from datumaro.components.annotation import Label
from datumaro.components.media import Image
answers, classes, folder = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
items = [
    dm.DatasetItem(
        id=name,
        subset="train" if number % 2 else "val",
        media=Image.from_numpy(data=np.full((8, 8, 3), number * 9, np.uint8)),
        annotations=[] if label is None else [Label(classes.index(label))],
        attributes={"frame": number},
    )
    for number, (name, label) in enumerate(answers.items())
]
for format_ in ("cvat", "datumaro", "coco", "imagenet"):
    dm.Dataset.from_iterable(items, categories=classes).export(f"{folder}/{format_}", format_, save_media=True)
"""
WRITE_LABEL_STUDIO = """
import sys
from label_studio_sdk.converter import Converter
config, tasks, folder = sys.argv[1:]
converter = Converter(config=config, project_dir=None)
for format_ in ("JSON", "JSON_MIN", "CSV", "TSV"):
    converter.convert(tasks, f"{folder}/{format_}", format_, is_dir=False)
"""


def python_with(name: str, package: str) -> Path:
    """An interpreter beside the project's that has a package, made when it is first needed. Raises `NotInstalled`."""
    environment = ROOT / f".venv-{name}"
    python, ready = environment / "bin" / "python", environment / ".ready"  # written last
    with FileLock(f"{environment}.lock", timeout=2 * INSTALL_SECONDS):
        if not ready.is_file() or ready.read_text() != package:
            run_installer(package, sys.executable, "-m", "venv", "--clear", environment)
            run_installer(package, python, "-m", "pip", "install", "--quiet", package)
            ready.write_text(package)
    return python


def write(python: Path, program: str, *arguments: str) -> None:
    """Run one of the programs above."""
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
