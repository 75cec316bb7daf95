"""`saat serve` under load: searches a second with uploads of 100 KB, against the encoder alone; then hostile requests.

python benchmarks/bench_serve.py [--quick] [--checkpoint DIR] [--work DIR]

The server is the process that users start, over an index of the embedded garments. Its rate and the encoder's are taken
in turns, on the same cores, of the same files: the encoder decodes and encodes them in batches as large as the
server's, with nothing around it. Clients have a core of their own where there is more than one, so that what they cost
is not the server's. On a machine at work, `cpu_over_encoder`, the processor time of an image over that of a request,
says more than the rates do. Then 2,000 requests meant to harm, of all kinds, while good ones go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile_requests import hostile_requests, post, upload
from provenance import commit
from serve_clients import Answers, ask_for, attack, closed_loop
from serve_materials import ITEMS, build_index, describe, make_photos, trained
from turns import summary

from saat.data.decoding import open_image, resize_image
from saat.recipes.encoder import load_encoder
from saat.runtime import available_cores, set_threads, versions, write_text

RESULT = Path(__file__).parent / "results" / "serve.json"
BATCH = 32  # queries that the server encodes together, at most
FULL_LOAD = 64  # clients at which the headline is taken
SLOWEST = 8.0  # seconds that a request may take while the hostile ones come
HONEST = 4  # good clients among the hostile ones
ATTACKERS = 32
PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    seconds: float
    hostile: int
    clients: tuple[int, ...]


FULL = Effort(7, 20.0, 2000, (1, 8, FULL_LOAD))
QUICK = Effort(3, 8.0, 2000, (1, FULL_LOAD))


def main() -> None:
    """Measure from the command line; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a model to serve; without it, one is trained and kept")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/serve"), help="where things are kept")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, within five minutes")
    parser.add_argument("--encoder", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.encoder:
        print(json.dumps(encoder_rate(options.checkpoint, options.work, options.encoder)))
        return
    effort = QUICK if options.quick else FULL
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = (cores[:-1], cores[-1:]) if len(cores) > 1 else (cores, cores)
    checkpoint = options.checkpoint or trained(options.work / "model")
    photos = make_photos(options.work / "photos")
    index = build_index(options.work, checkpoint)
    os.sched_setaffinity(0, theirs)
    requests = [post(upload(photo)) for photo in photos]
    log = options.work / "server.log"
    with served(index, checkpoint, ours, log) as server:
        load = measure_load(server, requests, checkpoint, options.work, effort, ours)
    with served(index, checkpoint, ours, log, f"--request_seconds={SLOWEST}") as server:
        hostile = measure_hostile(server, requests, photos[0], effort)
    result = {
        "machine": {"processor": platform.machine(), "server_cores": len(ours), "client_cores": len(theirs)}
        | {"apart": len(cores) > 1},
        "versions": versions() | {"numpy": np.__version__},
        "commit": commit(),
        "quick": options.quick,
        "items": ITEMS,
        "model": describe(checkpoint),
        "photo_bytes": summary([float(len(photo)) for photo in photos]),
        **load,
        "hostile": hostile | {"tracebacks": log.read_text().count("Traceback")},
    }
    figures = headline(result)
    write_text(RESULT, json.dumps(figures | result, indent=2) + "\n")
    print(json.dumps(figures))


def headline(result: dict[str, Any]) -> dict[str, float]:
    full, hostile = result["load"][-1], result["hostile"]
    return {
        "throughput_over_encoder": round(result["over_encoder"]["throughput"]["median"], 3),
        "cpu_over_encoder": round(result["over_encoder"]["cpu"]["median"], 3),
        "requests_per_second": round(full["requests_per_second"]["median"], 1),
        "p50_ms": round(full["p50_ms"], 1),
        "p99_ms": round(full["p99_ms"], 1),
        "errors_5xx": hostile["errors_5xx"],
        "memory_growth_mb": round(hostile["memory_mb"]["growth"], 1),
        "good_requests_failed": hostile["good"]["failed"],
    }


def ratio(above: list[float], below: list[float]) -> dict[str, Any]:
    """Return the ratios of values that were taken in turns."""
    return summary([mine / theirs for mine, theirs in zip(above, below, strict=True)])


@dataclass(frozen=True)
class Server:
    """A running `saat serve`."""

    address: tuple[str, int]
    pid: int

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return what the process has in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE / 1e6


@contextmanager
def on_cores(cores: list[int]) -> Iterator[dict[str, str]]:
    """Processes started inside the block run on these cores; yields their environment."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield os.environ | {"OMP_NUM_THREADS": str(len(cores)), "OMP_WAIT_POLICY": "PASSIVE"}
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def served(index: Path, checkpoint: Path, cores: list[int], log: Path, *more: str) -> Iterator[Server]:
    """Start the server on a free port; it ends with the block."""
    words = [sys.executable, "-m", "saat", "serve", f"--index={index}", f"--checkpoint={checkpoint}", "--port=0"]
    words += ["--rate=0", *more]
    with on_cores(cores) as environment, log.open("w") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    with process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
            assert found, log.read_text()
            yield Server((found[1], int(found[2])), process.pid)
        finally:
            process.terminate()


def encoder_rate(checkpoint: Path, work: Path, seconds: float) -> tuple[float, float]:
    """Return images a second, decoded and encoded, and the processor time of one.

    The next batch is decoded while one is encoded, as in the server.
    """
    set_threads(0)
    encoder = load_encoder(checkpoint, None, device=torch.device("cpu"))
    contents = [path.read_bytes() for path in sorted((work / "photos").glob("*.jpg"))]
    batches = [contents[start : start + BATCH] for start in range(0, len(contents), BATCH)]

    def prepare(content: bytes) -> Any:
        with open_image(content) as whole:
            image = resize_image(whole, size=encoder.image_size, crop_border=encoder.crop_border)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    with ThreadPoolExecutor(available_cores()) as pool:
        waiting = [pool.submit(prepare, content) for content in batches[0]]
        done, number, began, cpu = -BATCH, 0, 0.0, 0.0
        while not done > 0 or time.perf_counter() - began < seconds:
            number += 1
            images = np.stack([future.result() for future in waiting])
            waiting = [pool.submit(prepare, content) for content in batches[number % len(batches)]]
            encoder.encode(images)
            done += BATCH
            if not done:  # the first batch is warm-up
                began, cpu = time.perf_counter(), time.process_time()
        return done / (time.perf_counter() - began), (time.process_time() - cpu) / done


def measure_load(
    server: Server, requests: list[bytes], checkpoint: Path, work: Path, effort: Effort, cores: list[int]
) -> dict[str, Any]:
    """Take the rates of encoder and server in turns."""
    known = ask_for(server.address, requests)
    encoder: list[float] = []
    costs: dict[str, list[float]] = {"image": [], "request": []}
    answers: dict[int, list[Answers]] = {clients: [] for clients in effort.clients}
    words = [sys.executable, __file__, f"--encoder={effort.seconds}", f"--checkpoint={checkpoint}", f"--work={work}"]
    for turn in range(effort.rounds):
        with on_cores(cores) as environment:
            output = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
        rate, cost = json.loads(output)
        encoder.append(rate)
        costs["image"].append(cost)
        for clients in effort.clients:
            before = server.cpu_seconds()
            answers[clients].append(closed_loop(server.address, requests, known, clients, effort.seconds))
            cost = (server.cpu_seconds() - before) / len(answers[clients][-1].seconds)
        costs["request"].append(cost)  # under the full load, which comes last
        rates = ", ".join(f"{clients} clients {answers[clients][-1].rate:.1f}" for clients in effort.clients)
        print(f"round {turn}: encoder {rate:.1f} a second; {rates}", flush=True)
    rows = [{"clients": clients} | Answers.joined(found).figures() for clients, found in answers.items()]
    for row, found in zip(rows, answers.values(), strict=True):
        row["requests_per_second"] = summary([part.rate for part in found])
    rates_of_server = [found.rate for found in answers[FULL_LOAD]]
    return {
        "seconds": effort.seconds,
        "batch": BATCH,
        "encoder_per_second": summary(encoder),
        "over_encoder": {
            "throughput": ratio(rates_of_server, encoder),
            "cpu": ratio(costs["image"], costs["request"]),
        },
        "cpu_seconds": {name: summary(values) for name, values in costs.items()},
        "load": rows,
    }


def measure_hostile(server: Server, requests: list[bytes], photo: bytes, effort: Effort) -> dict[str, Any]:
    """Send hostile requests from some clients and good ones from others; look at answers and memory."""
    known = ask_for(server.address, requests)
    before = closed_loop(server.address, requests, known, HONEST, effort.seconds)
    hostile = list(hostile_requests(effort.hostile, photo, slow=SLOWEST))
    ended, memory = threading.Event(), []
    with ThreadPoolExecutor(ATTACKERS + 1) as pool:
        good = pool.submit(closed_loop, server.address, requests, known, HONEST, None, ended)
        statuses: list[tuple[str, str]] = []
        for found in pool.map(lambda one: (one.kind, attack(server.address, one, 2 * SLOWEST)), hostile):
            statuses.append(found)
            memory.append(server.memory_mb())
        ended.set()
        during = good.result()
    after = closed_loop(server.address, requests, known, HONEST, effort.seconds)
    counts = Counter(status for _, status in statuses)
    warm = len(memory) // 5  # what every process takes once: pools, caches, the heap's own reserve
    first, last = statistics.median(memory[warm : 2 * warm]), statistics.median(memory[-warm:])
    return {
        "n": len(statuses),
        "by_kind": {kind: dict(Counter(s for k, s in statuses if k == kind)) for kind, _ in dict(statuses).items()},
        "errors_5xx": sum(n for status, n in counts.items() if status.startswith("5") and status != "503"),
        "overload_503": counts["503"],
        "memory_mb": {"second_fifth": first, "last_fifth": last, "most": max(memory), "growth": last - first},
        "good": {name: found.figures() for name, found in (("before", before), ("during", during), ("after", after))}
        | {"failed": sum(found.failed for found in (before, during, after))},
    }


if __name__ == "__main__":
    main()
