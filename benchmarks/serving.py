"""The scoring service over HTTP: requests a second and latency, with and without logging, batching, on one machine.

    python -m benchmarks.serving [--seconds 4] [--only 'logged' ...] [--json OUT]

Every variant is a service process of its own; they are asked in turn, several times, so that a busy machine slows
all of them. The client is a bare socket per connection: a real HTTP client would be the slowest part. Beside them, the
same model behind the server that Azure ML runs a scoring script in (with its defaults, one process, and a script that
answers and logs nothing), and without any service: pictures in memory, decoded and answered 32 at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform

VARIANTS = {
    "logged": ["--interval"],
    "logged before": [],  # serving.durability = "answer": on the disk before it is given
    "not logged": ["--no-log"],
    "logged, one by one": ["--interval", "--one-by-one"],
}
AZURE = "Azure ML's server"
BARE = "the bare model"
CONNECTIONS = (1, 8, 32)
TOGETHER = 32  # pictures that the bare model answers at once
ROUNDS = 3

SCRIPT = """
import io, os
from pathlib import Path

import torch
from azureml_inference_server_http.api.aml_request import rawhttp
from PIL import Image

from al_core.learning.inference import Predictor


def init():
    global predictor
    torch.set_num_threads(1)
    predictor = Predictor.load(Path(os.environ["AZUREML_MODEL_DIR"]))


@rawhttp
def run(request):
    image = Image.open(io.BytesIO(request.get_data(False))).convert("RGB")
    return dict(zip(predictor.classes, map(float, predictor.predict([image])[0])))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--only", action="append", default=[], help="a variant, by its name; again for more")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-log", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one-by-one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--interval", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        durability = "interval" if arguments.interval else "answer"
        serve(arguments.serve, log=not arguments.no_log, together=not arguments.one_by_one, durability=durability)
        return
    names = [*VARIANTS, AZURE, BARE]
    if unknown := set(arguments.only) - set(names):
        parser.error(f"no such variant: {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    rows = measure(arguments.seconds, arguments.only or names)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


# ---------------------------------------------------------------- the service


def serve(home: Path, *, log: bool, together: bool, durability: str) -> None:
    """A service with a small model on a free port, printed first."""
    import socket

    import torch
    import uvicorn

    from al_resources.platform import Platform
    from al_resources.settings import load_settings
    from al_resources.settings.sections import ServingSettings
    from al_serving import loaded_models as deployments
    from al_serving.app import ScoringService, config_of
    from al_serving.collector import Collector
    from al_serving.scoring import Scorer

    torch.set_num_threads(1)
    if not together:
        deployments.MAX_BATCH = 1
    settings = load_settings(home=home)
    serving = settings.serving.model_copy(update={"durability": durability})
    platform = Platform(settings.model_copy(update={"serving": serving}))
    version = published(platform)
    platform.endpoint.create("blue", version)
    platform.endpoint.set_traffic({"blue": 100})
    collector = Collector.of(platform) if log else None
    service = ScoringService(
        platform.endpoint.state,
        lambda version: Scorer.of(platform, platform.registry.fetch(version), collector),
        collector,
        datastores={},
    )
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(config_of(service, ServingSettings())).run(sockets=[listener])


def published(platform: Platform) -> int:
    """A small network in the registry, by its version."""
    from al_core.learning.checkpoint import WEIGHTS_FILE, save_weights, sha256_of
    from al_core.learning.networks import build_network, preprocessing_for
    from al_core.records import ModelManifest, utc_now

    home = platform.settings.home
    home.mkdir(parents=True, exist_ok=True)
    weights = home / WEIGHTS_FILE
    save_weights(build_network("small_cnn", classes=10, size=32, channels=3), weights)
    manifest = ModelManifest(
        name=platform.settings.model.name,
        version=0,
        architecture="small_cnn",
        classes=tuple("0123456789"),
        preprocessing=preprocessing_for("small_cnn", size=32, channels=3),
        dataset_version="none",
        training_key="none",
        code_version="benchmark",
        labels=0,
        created_at=utc_now(),
        weights_sha256=sha256_of(weights),
    )
    return platform.registry.register(weights, manifest).version


@contextmanager
def service(home: Path, options: list[str]) -> Iterator[int]:
    home.mkdir()
    command = [sys.executable, "-m", "benchmarks.serving", "--serve", str(home), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.terminate()


@contextmanager
def azure_server(home: Path) -> Iterator[int]:
    """The same network behind Azure ML's own server, with a script that answers and does nothing else."""
    from al_resources.azure.workspace import SCORING_SCRIPT, code_snapshot
    from al_resources.platform import Platform
    from al_resources.settings import load_settings
    from emulators.inference_server import inference_server

    platform = Platform(load_settings(home=home))
    model = platform.registry.fetch(published(platform))
    code = code_snapshot(home / "container")
    (code / SCORING_SCRIPT).write_text(SCRIPT)
    with inference_server(code, model, {}) as address:
        yield int(address.rpartition(":")[2])


@cache
def bare_model(home: Path) -> Predictor:
    """The same network, in this process."""
    import torch

    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform
    from al_resources.settings import load_settings

    torch.set_num_threads(1)
    platform = Platform(load_settings(home=home))
    return Predictor.load(platform.registry.fetch(published(platform)))


def answered_bare(predictor: Predictor, images: list[bytes], seconds: float) -> list[float]:
    """Seconds that each picture took until its answer, decoded and answered some at a time."""
    from PIL import Image

    taken: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        some = [images[(len(taken) + number) % len(images)] for number in range(TOGETHER)]
        predictor.predict([Image.open(BytesIO(image)).convert("RGB") for image in some])
        taken += [time.perf_counter() - begin] * TOGETHER
    return taken


# ---------------------------------------------------------------- the client


def pictures(kind: str) -> list[bytes]:
    """Different images, as requests bring them: icons of 32 pixels, or photographs of 640 x 480."""
    from PIL import Image

    generator = np.random.default_rng(0)
    images = []
    for _ in range(200 if kind == "32 px" else 20):
        buffer = BytesIO()
        small = Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8))
        if kind == "32 px":
            small.save(buffer, "PNG")
        else:
            small.resize((640, 480)).save(buffer, "JPEG", quality=90)
        images.append(buffer.getvalue())
    return images


async def load(port: int, images: list[bytes], connections: int, seconds: float) -> list[float]:
    """Latencies in seconds of all requests that `connections` clients get answered."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (begin := time.perf_counter()) < end:
            if reader.at_eof():  # a server may close after each answer
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            image = images[(number + len(latencies)) % len(images)]
            head = f"POST /score HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(image)}\r\n\r\n"
            writer.write(head.encode() + image)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if b"connection: close" in answer.lower():
                await reader.read()
            latencies.append(time.perf_counter() - begin)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(connections)))
    return latencies


def measure(seconds: float, variants: list[str]) -> list[dict[str, Any]]:
    """Medians over the rounds, one row per variant, kind of image and number of connections."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        homes = {variant: Path(folder) / str(number) for number, variant in enumerate(variants)}
        ports = {
            variant: stack.enter_context(azure_server(home) if variant == AZURE else service(home, VARIANTS[variant]))
            for variant, home in homes.items()
            if variant != BARE
        }
        for kind in ("32 px", "640 x 480"):
            images = pictures(kind)
            for connections in CONNECTIONS:
                seen: dict[str, list[tuple[float, float, float]]] = {variant: [] for variant in variants}
                for _ in range(ROUNDS):
                    for variant in variants:
                        seen[variant].append(
                            once(ports.get(variant), homes[variant], images, connections, seconds / ROUNDS)
                        )
                for variant, values in seen.items():
                    rate, p50, p99 = (statistics.median(column) for column in zip(*values, strict=True))
                    rows.append(
                        {
                            "image": f"{kind}, {statistics.mean(map(len, images)) / 1000:.0f} kB",
                            "connections": connections,
                            "variant": variant,
                            "requests_per_second": round(rate),
                            "p50_ms": round(p50, 2),
                            "p99_ms": round(p99, 2),
                        }
                    )
    return rows


def once(
    port: int | None, home: Path, images: list[bytes], connections: int, seconds: float
) -> tuple[float, float, float]:
    """Requests a second, median and 99th percentile in ms; of the bare model where there is no port."""
    for duration in (0.3, seconds):  # the first warms up
        if port is None:
            times = answered_bare(bare_model(home), images, duration)
        else:
            times = asyncio.run(load(port, images, connections, duration))
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return len(times) / seconds, 1000 * p50, 1000 * p99


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text; beside each, how many times the others' requests a second it answers."""
    rates = {(row["image"], row["connections"], row["variant"]): row["requests_per_second"] for row in rows}
    others = ("not logged", AZURE, BARE)
    lines = [
        f"{'image':17} {'clients':>7} {'variant':18} {'requests/s':>10} {'p50 ms':>7} {'p99 ms':>8}   of "
        + ", ".join(others)
    ]
    for row in rows:
        ratios = (
            f"{row['requests_per_second'] / rates[row['image'], row['connections'], other]:.2f}"
            if (row["image"], row["connections"], other) in rates
            else "-"
            for other in others
        )
        lines.append(
            f"{row['image']:17} {row['connections']:7} {row['variant']:18} {row['requests_per_second']:10} "
            f"{row['p50_ms']:7.2f} {row['p99_ms']:8.2f}   {', '.join(ratios)}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
