"""The whole story in minutes, on embedded real images: train, attack, harden, attack again, report."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from saat.data.catalog import DataOptions, load_splits
from saat.data.splits import Splits
from saat.errors import ArgumentError
from saat.evaluation.report import write_report
from saat.recipes.attack import AttackConfig, attack
from saat.recipes.harden import HardenConfig, harden
from saat.recipes.tables import print_table
from saat.recipes.train import TrainConfig, train
from saat.runtime import RunOptions
from saat.training import FitOptions

DATABASE = "database"  # the folder of the images


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RunOptions):
    """Train a 32-bit model on Fashion-MNIST, attack it, harden it by SAAT, attack again, and write a report.

    The images of the database are written too, so that an index can be built of them.

    Args:
        out: folder of the checkpoints, the attacks, the report and the images.
        train_size: train images; 0 for all 5,000.
        query_size: queries that are attacked.
        database_size: images of the database; 0 for all 10,000.
        train_epochs: epochs of the plain model.
        harden_epochs: epochs of the hardening.
        epsilon: linf radius of the attacks. Garments on plain black give 8/255, the usual radius for photographs, too
            little to work with: the plain model keeps part of its MAP there. The hardening is at 8/255 all the same.
        attack_steps: steps of the attacks, of an eighth of the radius each.
    """

    out: Path = Path("runs/demo")
    train_size: int = 0
    query_size: int = 500
    database_size: int = 0
    train_epochs: int = 6
    harden_epochs: int = 3
    epsilon: float = 16 / 255
    attack_steps: int = 50


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run the story; write the report to `config.out`, print a table, and return the combined report."""
    began = time.perf_counter()
    check_place(config.out)
    run: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(RunOptions)}
    plain, hardened = config.out / "plain", config.out / "hardened"
    sizes: dict[str, Any] = {
        "train_size": config.train_size,
        "query_size": config.query_size,
        "database_size": config.database_size,
    }
    announce("1/4  train a plain model", quiet=config.quiet)
    fit = FitOptions(epochs=config.train_epochs, batch_size=64, learning_rate=0.1)
    train(TrainConfig(out=plain, data=DataOptions(**sizes), backbone="resnet14", loss="csq", fit=fit, **run))
    announce("2/4  attack its queries", quiet=config.quiet)
    attack_plain = AttackConfig(
        out=config.out / "attack-plain",
        checkpoint=plain,
        epsilon=config.epsilon,
        steps=config.attack_steps,
        step_size=config.epsilon / 8,
        name="plain",
        **run,
    )
    attack(attack_plain)
    announce("3/4  harden it by SAAT", quiet=config.quiet)
    fit = FitOptions(epochs=config.harden_epochs, batch_size=64, learning_rate=0.05)
    harden(HardenConfig(checkpoint=plain, out=hardened, fit=fit, **run))
    announce("4/4  attack again", quiet=config.quiet)
    attack_hardened = replace(attack_plain, out=config.out / "attack-hardened", checkpoint=hardened, name="hardened")
    attack(attack_hardened)
    runs = [("plain", attack_plain.out), ("hardened", attack_hardened.out)]
    page, report = write_report(runs, config.out)
    write_database(load_splits(DataOptions(**sizes), quiet=True), config.out / DATABASE)
    if not config.quiet:
        rows = [
            (
                f"{name} (unreliable)" if report[name]["unreliable"] else name,
                f"{report[name]['clean_map']:.3f}",
                f"{report[name]['attacked_map']:.3f}",
                f"{report['chance_map']:.3f}",
            )
            for name, _ in runs
        ]
        print_table("The story", ("model", "clean MAP", "attacked MAP", "chance MAP"), rows)
    print(f"{time.perf_counter() - began:.0f} s; report: {page}")
    return report


def check_place(out: Path) -> None:
    """Raise where the images of the database would take the place of something else.

    Raises:
        ArgumentError: there is a folder of their name, and no demo.
    """
    if (out / DATABASE).exists() and not (out / "plain").exists():
        found = f"{out}, where {DATABASE} is something else"
        raise ArgumentError(f"`out` is a new folder or that of an earlier demo; got {found}")


def write_database(splits: Splits, folder: Path) -> None:
    """Write the images of a database to `folder`, a subfolder a class, all of them or none; what was there goes."""
    names = [name.replace("/", " ") for name in splits.class_names]
    database = splits.database
    classes = database.labels.argmax(1).tolist()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        whole = Path(temporary) / folder.name
        for name in names:
            (whole / name).mkdir(parents=True)
        for row, pixels in enumerate(database.images.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(pixels).save(whole / names[classes[row]] / f"{row:05}.png")
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)


def announce(text: str, *, quiet: bool) -> None:
    """Print what comes next, unless `quiet`."""
    if not quiet:
        print(text, flush=True)
