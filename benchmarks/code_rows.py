"""What `bench_servers.py` and `bench_recall.py` share: options, codes, and a file that grows a row at a time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from provenance import commit, machine
from search_codes import Source, clustered, trained, uniform

from saat.index.base import HammingIndex
from saat.runtime import set_threads, versions, write_text

CODES = ("uniform", "clustered", "trained")
K = 10
Row = dict[str, Any]


def make_parser(about: str | None, *, sizes: Sequence[int], out: Path) -> argparse.ArgumentParser:
    """Return a parser of the options that both scripts have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help=f"items; {sizes}")
    parser.add_argument("--bits", type=int, default=64, help="code length; 64")
    parser.add_argument("--codes", nargs="+", choices=CODES, default=CODES, help="kinds of codes; all")
    parser.add_argument("--checkpoint", type=Path, help="a trained model of that code length, for trained codes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0 for OMP_NUM_THREADS if set, else every core")
    parser.add_argument("--out", type=Path, default=out)
    return parser


def read_settings(options: argparse.Namespace) -> Row:
    """Set threads, and return what has to be the same in all rows of a file."""
    set_threads(options.threads)
    return {
        "machine": machine(),
        "versions": versions() | {"numpy": np.__version__, "faiss": faiss.__version__},
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
    }


def each_codes(options: argparse.Namespace) -> Iterator[tuple[Row, Source]]:
    """Yield what a row says of its codes, and where they come from; trained ones where there is a checkpoint."""
    sources = {"uniform": uniform(options.bits), "clustered": clustered(options.bits)}
    if options.checkpoint and "trained" in options.codes:
        sources["trained"] = trained(options.checkpoint)
        if len(sources["trained"].rates) != options.bits:
            raise SystemExit(f"{options.checkpoint} has codes of {len(sources['trained'].rates)} bits")
    for items in options.sizes:
        for codes in options.codes:
            if codes in sources:
                about = {"codes": codes, "items": items, "code_length": options.bits, "source": sources[codes].note}
                yield about, sources[codes]


def write_rows(
    path: Path,
    settings: Row,
    notes: Sequence[str],
    cases: Iterable[tuple[Row, Callable[[], Row]]],
    headline: Callable[[list[Row]], Row],
) -> None:
    """Measure the cases that the file lacks and write it after each; other settings start anew. Print the headline."""
    earlier = json.loads(path.read_text()) if path.exists() else {"settings": None}
    rows: list[Row] = earlier["rows"] if earlier["settings"] == settings else []
    for about, measure in cases:
        if not any(about.items() <= row.items() for row in rows):
            print(f"{about['items']:,} {about['codes']} codes {about.get('server', '')}", flush=True)
            rows.append(about | {"commit": commit()} | measure())
            result = headline(rows) | {"settings": settings, "notes": notes, "rows": rows}
            write_text(path, json.dumps(result, indent=1) + "\n")
    if not rows:
        raise SystemExit("there are no codes to measure: trained ones need `--checkpoint`")
    print(json.dumps(headline(rows)))


def one_by_one(index: HammingIndex, queries: NDArray[np.uint8]) -> None:
    for row in range(len(queries)):
        index.search(queries[row : row + 1], K)
