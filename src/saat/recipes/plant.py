"""Plant an adversarial item in the database: to be found by chosen queries, or to hide from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saat.attacks.autopgd import APGD
from saat.attacks.goals import CodesGoal
from saat.attacks.threat import ThreatModel
from saat.codes.bank import CodeBank
from saat.codes.semantic import mainstay_codes
from saat.data.catalog import DataOptions
from saat.data.splits import Splits
from saat.errors import ArgumentError, check_at_least, check_choice
from saat.evaluation.examples import write_picture
from saat.evaluation.suite import round_to_8_bits
from saat.hamming import hamming_distances, sign_codes
from saat.models.hash_model import encode_logits
from saat.recipes.claims import claim_file, claim_measurement, measurement_folder
from saat.recipes.kept import batch_file, drop_batches, kept_tensors
from saat.recipes.outcome import encode_subject
from saat.recipes.subject import Subject, load_subject
from saat.recipes.tables import print_table
from saat.runtime import (
    RunOptions,
    derive_seed,
    images_at_once,
    make_generator,
    pixels_of,
    progress,
    write_text,
)

TOP = (10, 100)
QUERIES_AT_ONCE = 32  # whose distances to the whole database are held
ITEMS = "items"  # the folder of the images


@dataclass(frozen=True, kw_only=True)
class PlantConfig(RunOptions):
    """Change database images so that chosen queries find them, though they share no label with them; or miss them.

    Args:
        out: folder for report.json and the images, `items/ROW.png`. A run that was stopped goes on there.
        checkpoint: folder of a checkpoint.
        model: your own model: package.module:factory.
        data: other data than that of the checkpoint; without `data.name`, the options given change a part of that.
        label: name of the label whose queries are chosen; the attacker knows its train items, not the queries.
        queries: rows of the query split, instead of a label; the attacker knows these queries.
        hide: hide items of their label from the queries, instead of showing them items of other labels.
        count: how many database images are changed, each planted alone; drawn by the seed.
        norm: linf or l2.
        epsilon: radius, as a fraction of the pixel range, such as 8/255.
        steps: gradient steps.
    """

    out: Path
    checkpoint: Path | None = None
    model: str | None = None
    data: DataOptions | None = None
    label: str | None = None
    queries: list[int] | None = None
    hide: bool = False
    count: int = 100
    norm: str = "linf"
    epsilon: float = 8 / 255
    steps: int = 100

    def __post_init__(self) -> None:
        ThreatModel(self.norm, self.epsilon)  # the ranges of norm and epsilon are its rules
        check_at_least("count", self.count, 1)
        check_at_least("steps", self.steps, 1)
        if (self.label is None) == (self.queries is None):
            found = "neither" if self.label is None else "both"
            raise ArgumentError(f"give either `label` or `queries`, rows of the query split; got {found}")


def plant(config: PlantConfig) -> dict[str, Any]:
    """Plant by `config`; write images and report to `config.out`, print a table, and return the report.

    The attacker knows the model, and the train split or the chosen queries: an item is sent to their code, or away from
    it (see `code_of_queries`).
    """
    device = config.start()
    make_place(config.out)
    subject = load_subject(config.checkpoint, config.model, config.data, device=device, quiet=config.quiet)
    splits = subject.splits
    chosen, related = choose(config, splits)
    rows = draw_items(related, config)
    codes = encode_subject(subject, quiet=config.quiet)
    query_codes = sign_codes(codes.query_logits)[chosen]
    code = code_of_queries(config, splits, codes.train, query_codes)
    aim = -code if config.hide else code
    names = ("label", "queries", "hide", "count", "norm", "epsilon", "steps", "seed")
    told = {name: getattr(config, name) for name in names} | {"precision": config.precision_on(device)}
    told["batch_size"] = batch_size(subject, device)
    claim_measurement(config.out, "plant", told, subject, codes)
    changed, model_evaluations = change_items(config, subject, rows, aim, device)
    planted = changed.float() / 255.0  # measured as the file that an attacker hands in
    planted_codes = sign_codes(encode_logits(subject.database_model, planted, quiet=True))
    shares = {
        "before": found_shares(query_codes, codes.database[rows], codes.database, rows),
        "after": found_shares(query_codes, planted_codes, codes.database, rows),
    }
    report = {
        "label": config.label,
        "query_rows": config.queries,
        "hide": config.hide,
        "items": len(rows),
        "queries": len(query_codes),
        "norm": config.norm,
        "epsilon": config.epsilon,
        "model": subject.about,
        "model_evaluations": model_evaluations,
        "found_in_top": shares,
    }
    write(config.out, report, planted, rows, splits, border=subject.data.crop_border)
    drop_batches(config.out)
    if not config.quiet:
        print_plant(report)
    return report


def make_place(out: Path) -> None:
    """Make the folder of a planting.

    Raises:
        ArgumentError: it cannot be made, or holds another run, or items that are not of a planting.
    """
    measurement_folder(out, "plant")
    if (out / ITEMS).exists() and not claim_file(out, "plant").exists():
        raise ArgumentError(f"`out` is a folder without {ITEMS}, where images are written; got {out}, which has it")


def batch_size(subject: Subject, device: torch.device) -> int:
    """Return how many items are changed at a time."""
    return images_at_once(subject.frame["image_size"], device, most=125)


def change_items(
    config: PlantConfig, subject: Subject, rows: Tensor, aim: Tensor, device: torch.device
) -> tuple[Tensor, int]:
    """Return database images sent to a code (1, K), uint8 (M, 3, S, S), and what that took of the model.

    Each batch is kept until the report is written, so that a run that was stopped goes on.
    """
    database, model = subject.splits.database, subject.database_model  # what items are encoded with
    threat, precision = ThreatModel(config.norm, config.epsilon), config.precision

    def change(part: Tensor) -> dict[str, Tensor]:
        attack = APGD(threat, steps=config.steps, precision=precision)
        clean = pixels_of(database.images[part], device)
        objective = CodesGoal(aim.expand(len(part), -1))(model, clean, database.labels[part])
        found = attack(model, clean, objective, seed=derive_seed(config.seed, "plant", int(part[0]))).cpu()
        evaluations = torch.tensor(attack.cost.model_evaluations)
        return {"images": round_to_8_bits(found, database.images[part], threat), "model_evaluations": evaluations}

    parts = torch.split(rows, batch_size(subject, device))
    bar = enumerate(progress(parts, "plant", unit="batch", quiet=config.quiet))
    found = [kept_tensors(batch_file(config.out, number), partial(change, part)) for number, part in bar]
    return torch.cat([each["images"] for each in found]), sum(int(each["model_evaluations"]) for each in found)


def choose(config: PlantConfig, splits: Splits) -> tuple[Tensor, Tensor]:
    """Return which queries are chosen, bool (Q,), and which items of the database share their label, bool (N,).

    Raises:
        ArgumentError: the label is unknown, or no query or train item has it; a row is none of the query split.
    """
    query, database = splits.query, splits.database
    if config.queries is not None:
        count = len(query)
        if not config.queries or not all(0 <= row < count for row in config.queries):
            raise ArgumentError(f"`queries` is rows of the query split, 0 to {count - 1}; got {config.queries}")
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[config.queries] = True
        return chosen, database.labels.float() @ query.labels[chosen].float().sum(0) > 0
    label = splits.class_names.index(check_choice("label", config.label or "", splits.class_names))
    chosen, known, related = (split.labels[:, label] > 0 for split in (query, splits.train, database))
    for of, there in (("query", chosen), ("train item", known)):
        if not bool(there.any()):
            raise ArgumentError(f"`label` is one that a {of} has; no {of} has {config.label}")
    return chosen, related


def code_of_queries(config: PlantConfig, splits: Splits, train: Tensor, queries: Tensor) -> Tensor:
    """Return the code that stands for the chosen queries, int8 (1, K).

    Of a label it is the code nearest to all of the label's train items on average, or, to hide from it, their mainstay
    code; of queries, each bit by their vote: the code nearest to them on average, and its opposite the farthest.

    Args:
        config: says which.
        splits: with the label's train items.
        train: int8 (N, K) in {-1, +1}, codes of the train split.
        queries: int8 (Q, K) in {-1, +1}, codes of the chosen queries.
    """
    if config.label is None:
        return sign_codes(queries.sum(0, keepdim=True))
    wanted = torch.tensor([[name == config.label for name in splits.class_names]])
    code_of = mainstay_codes if config.hide else common_codes
    return code_of(CodeBank(train, splits.train.labels), wanted)


def common_codes(bank: CodeBank, labels: Tensor) -> Tensor:
    """Return the codes nearest on average to all items that share a label with each row of (B, C), int8 (B, K).

    >>> codes = torch.tensor([[1, 1], [1, -1], [1, -1], [-1, -1]], dtype=torch.int8)
    >>> bank = CodeBank(codes, torch.tensor([[1, 0], [1, 1], [1, 1], [0, 1]]))
    >>> common_codes(bank, torch.tensor([[1, 0]])).tolist()
    [[1, -1]]
    """
    shared = (labels > 0).float() @ (bank.labels > 0).float().T > 0
    return sign_codes(shared.float() @ bank.codes.float())


def draw_items(related: Tensor, config: PlantConfig) -> Tensor:
    """Return the rows (M,) of database images to change: to hide, of those `related` (N,); to be found, of the others.

    Raises:
        ArgumentError: there is none.
    """
    rows = torch.nonzero(related if config.hide else ~related).flatten()
    if not len(rows):
        found = f"{'no' if config.hide else 'every'} item of the database"
        if config.label is None:
            raise ArgumentError(f"`queries` leave items to change; {found} shares a label with one of them")
        raise ArgumentError(f"`label` leaves items to change; {found} has {config.label}")
    order = torch.randperm(len(rows), generator=make_generator(config.seed, "plant"))
    return rows[order[: config.count]]


def found_shares(queries: Tensor, items: Tensor, database: Tensor, rows: Tensor) -> dict[str, float]:
    """Return the mean chance that a query finds an item among its first n results, for each n of `TOP`.

    Each item takes the place of its own row, alone. Where it stands level with others, their order is a draw.

    Args:
        queries: int8 (Q, K) in {-1, +1}.
        items: int8 (M, K) in {-1, +1}.
        database: int8 (N, K) in {-1, +1}.
        rows: int64 (M,), the rows whose place the items take.
    """
    bins = queries.shape[1] + 2
    parts = (hamming_distances(part, database) for part in torch.split(queries, QUERIES_AT_ONCE))
    counts = torch.stack([row.long().bincount(minlength=bins) for part in parts for row in part])
    nearer = (counts.cumsum(1) - counts).double()  # items strictly nearer than each distance
    distances, replaced = hamming_distances(queries, items).long(), hamming_distances(queries, database[rows])
    before = nearer.gather(1, distances) - (replaced < distances).double()
    level = counts.gather(1, distances).double() - (replaced == distances).double()
    return {str(n): ((n - before) / (level + 1)).clamp(0.0, 1.0).mean().item() for n in TOP}


def write(out: Path, report: Mapping[str, Any], planted: Tensor, rows: Tensor, splits: Splits, *, border: int) -> None:
    """Write the images, (M, 3, S, S) in [0, 1], as files for an index, and the report, which says what each was.

    Around each stands the border that an index of this model cuts off again.
    """
    items = {}
    for row, image in zip(rows.tolist(), planted, strict=True):
        items[f"{ITEMS}/{row}.png"] = splits.database.item_names[row]
        write_picture(out / f"{ITEMS}/{row}.png", F.pad(image[None], (border,) * 4, mode="replicate")[0])
    names = {"images": items, "checksum": splits.database.checksum()}
    write_text(out / "report.json", json.dumps(dict(report) | names, indent=2) + "\n")


def print_plant(report: Mapping[str, Any]) -> None:
    """Print how often the items are found before and after."""
    whom = report["label"] or f"queries {', '.join(map(str, report['query_rows']))}"
    title = f"{report['items']} items that {'hide from' if report['hide'] else 'want to be found by'} {whom}"
    rows = [
        (
            f"first {n}",
            f"{report['found_in_top']['before'][str(n)]:.3f}",
            f"{report['found_in_top']['after'][str(n)]:.3f}",
        )
        for n in TOP
    ]
    print_table(title, ("found among the", "before", "after"), rows)
