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
FIFTYONE = "fiftyone==1.22.1"
HUGGING_FACE = "datasets==5.2.0 pillow"

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
# FiftyOne's exporters themselves: its own data sets want a MongoDB
WRITE_FIFTYONE = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
import fiftyone as fo
import fiftyone.utils.data as writers
answers, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
classes = sorted({label for label in answers.values() if label is not None})
for name, exporter in {
    "names": writers.FiftyOneImageClassificationDatasetExporter(str(folder / "names"), include_confidence=True),
    "numbers": writers.FiftyOneImageClassificationDatasetExporter(str(folder / "numbers"), classes=classes),
    "tree": writers.ImageClassificationDirectoryTreeExporter(str(folder / "tree")),
}.items():
    with exporter:
        for number, (image, label) in enumerate(answers.items()):
            file = folder / "pictures" / f"{image}.jpg"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), number * 9, np.uint8)).save(file)
            told = None if label is None else fo.Classification(label=label, confidence=0.5)
            exporter.export_sample(str(file), told)
"""
# a data set as people load it from the hub, and the metadata of an `imagefolder`
WRITE_HUGGING_FACE = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image as Picture
from datasets import ClassLabel, Dataset, Features, Image
answers, classes, folder = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
files = [folder / "pictures" / f"{name}.jpg" for name in answers]
for number, file in enumerate(files):
    file.parent.mkdir(exist_ok=True)
    Picture.fromarray(np.full((8, 8, 3), number * 9, np.uint8)).save(file)
features = Features({"image": Image(), "label": ClassLabel(names=classes)})
rows = {"image": [str(file) for file in files], "label": list(answers.values())}
Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
flat = Dataset.from_dict({"file_name": [file.name for file in files], "label": list(answers.values())})
flat.to_json(folder / "metadata.jsonl")
flat.to_csv(folder / "metadata.csv")
"""


def python_with(name: str, package: str) -> Path:
    """An interpreter beside the project's that has a package, made when it is first needed. Raises `NotInstalled`."""
    environment = ROOT / f".venv-{name}"
    python, ready = environment / "bin" / "python", environment / ".ready"  # written last
    with FileLock(f"{environment}.lock", timeout=2 * INSTALL_SECONDS):
        if not ready.is_file() or ready.read_text() != package:
            run_installer(package, sys.executable, "-m", "venv", "--clear", environment)
            run_installer(package, python, "-m", "pip", "install", "--quiet", *package.split())
            ready.write_text(package)
    return python


def write(python: Path, program: str, *arguments: str) -> None:
    """Run one of the programs above."""
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
