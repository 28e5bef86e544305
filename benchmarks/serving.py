"""The scoring service over HTTP: requests a second and latency, with and without logging, batching, on one machine.

    python -m benchmarks.serving [--seconds 4] [--json OUT]

Every variant is a service process of its own; they are asked in turn, several times, so that a busy machine slows
all of them. The client is a bare socket per connection: a real HTTP client would be the slowest part.
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
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

VARIANTS = {
    "logged": ["--interval"],
    "logged before": [],  # serving.durability = "answer": on the disk before it is given
    "not logged": ["--no-log"],
    "logged, one by one": ["--interval", "--one-by-one"],
}
CONNECTIONS = (1, 32)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
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
    rows = measure(arguments.seconds)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


# ---------------------------------------------------------------- the service


def serve(home: Path, *, log: bool, together: bool, durability: str) -> None:
    """A service with a small model on a free port, printed first."""
    import socket

    import torch
    import uvicorn

    from al_core.learning.checkpoint import WEIGHTS_FILE, save_weights, sha256_of
    from al_core.learning.networks import build_network, preprocessing_for
    from al_core.records import ModelManifest, utc_now
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
    network = build_network("small_cnn", classes=10, size=32, channels=3)
    weights = home / WEIGHTS_FILE
    save_weights(network, weights)
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
    version = platform.registry.register(weights, manifest).version
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


@contextmanager
def service(home: Path, options: list[str]) -> Iterator[int]:
    home.mkdir()
    command = [sys.executable, "-m", "benchmarks.serving", "--serve", str(home), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.terminate()


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
            image = images[(number + len(latencies)) % len(images)]
            head = f"POST /score HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(image)}\r\n\r\n"
            writer.write(head.encode() + image)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - begin)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(connections)))
    return latencies


def measure(seconds: float) -> list[dict[str, Any]]:
    """Medians over the rounds, one row per variant, kind of image and number of connections."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ports = {
            variant: stack.enter_context(service(Path(folder) / str(number), options))
            for number, (variant, options) in enumerate(VARIANTS.items())
        }
        for kind in ("32 px", "640 x 480"):
            images = pictures(kind)
            for connections in CONNECTIONS:
                seen: dict[str, list[tuple[float, float, float]]] = {variant: [] for variant in VARIANTS}
                for _ in range(ROUNDS):
                    for variant, port in ports.items():
                        asyncio.run(load(port, images, connections, 0.3))  # warm
                        times = asyncio.run(load(port, images, connections, seconds / ROUNDS))
                        p50, p99 = np.quantile(times, [0.5, 0.99])
                        seen[variant].append((len(times) / (seconds / ROUNDS), 1000 * p50, 1000 * p99))
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


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, each with its ratio to the same load without logging."""
    bare = {(row["image"], row["connections"]): row for row in rows if row["variant"] == "not logged"}
    lines = [
        f"{'image':22} {'connections':>11} {'variant':20} {'requests/s':>10} "
        f"{'p50 ms':>7} {'p99 ms':>7} {'p50 / bare':>10}"
    ]
    for row in rows:
        ratio = row["p50_ms"] / bare[row["image"], row["connections"]]["p50_ms"]
        lines.append(
            f"{row['image']:22} {row['connections']:11} {row['variant']:20} {row['requests_per_second']:10} "
            f"{row['p50_ms']:7.2f} {row['p99_ms']:7.2f} {ratio:10.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
