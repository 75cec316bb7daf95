"""The leaderboard: result cards grouped by what makes them comparable, and ranked by their worst case."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from saat import __version__
from saat.errors import DataError, check_folder
from saat.evaluation.report import is_chance, page_environment, surviving_share
from saat.evaluation.result_card import FRAME, RESULT_FILE, ResultCard, read_result_card
from saat.runtime import write_text

OTHER_FILES = (
    "attack.json",
    "card.json",
    "certify.json",
    "detect.json",
    "leaderboard.json",
    "metrics.json",
    "plant.json",
    "report.json",
    "suite.json",
)
"""What else saat writes; in a folder of cards these are not looked at."""
COST = ("saat", "created", "seconds", "versions")
"""The entries that differ when the same measurement is made again."""
MODEL = ("backbone", "code_length", "loss", "defense")


@dataclass(frozen=True)
class FoundCards:
    """What a search for result cards found.

    Args:
        cards: each measurement once.
        repeated: how many more files hold one of these measurements again.
        left_out: why, by file: damaged, or no result card.
    """

    cards: list[ResultCard]
    repeated: int
    left_out: dict[str, str]


def find_cards(folders: Sequence[Path]) -> FoundCards:
    """Read every `result.json` at any depth of the folders, and every other JSON file right in them.

    Args:
        folders: at least one; a file that lies in two of them is read once.

    Raises:
        DataError: a folder does not exist, or there is no card in any.
    """
    found: dict[str, ResultCard] = {}
    left_out: dict[str, str] = {}
    files = {path.absolute(): (folder, path) for folder in folders for path in _card_files(folder)}
    repeated = 0
    for folder, path in files.values():
        try:
            card = read_result_card(path)
        except DataError as error:
            shown = (Path(folder.name) / path.relative_to(folder)).as_posix()
            left_out[_writable(shown)] = _writable(str(error).replace(str(path), "the file"))
            continue
        measurement = json.dumps({key: value for key, value in card.items() if key not in COST}, sort_keys=True)
        repeated += measurement in found
        found.setdefault(measurement, card)
    if not found:
        where = ", ".join(map(str, folders)) or "no folder"
        told = "".join(f"; {shown}: {why}" for shown, why in left_out.items())
        raise DataError(
            f"`cards` are folders with a {RESULT_FILE} that saat evaluate --suite wrote; found none in {where}{told}"
        )
    return FoundCards(list(found.values()), repeated, left_out)


def _card_files(folder: Path) -> list[Path]:
    check_folder("cards", folder)
    flat = [path for path in folder.glob("*.json") if path.name not in OTHER_FILES]
    return sorted({*folder.rglob(RESULT_FILE), *flat})


def _writable(text: str) -> str:
    """Keep a file name that is not UTF-8 from breaking the page."""
    return text.encode("utf-8", "backslashreplace").decode()


def make_leaderboard(found: FoundCards) -> dict[str, Any]:
    """Return the groups of comparable cards with their ranked rows, ready for `json.dumps`.

    Cards are comparable that share the queries and the database, the threat model, and the suite with its members,
    surrogates and steps. Cards of one name and one kind of model are a row, and the models among them its runs.
    """
    groups: dict[Hashable, list[ResultCard]] = {}
    for card in found.cards:
        groups.setdefault(_comparable(card), []).append(card)
    return {
        "saat": __version__,
        "cards": len(found.cards),
        "repeated": found.repeated,
        "left_out": found.left_out,
        "groups": sorted((_group(cards) for cards in groups.values()), key=_group_order),
    }


def _comparable(card: ResultCard) -> Hashable:
    data, threat = card["dataset"], card["threat"]
    checksums = (data["checksums"]["query"], data["checksums"]["database"])
    attack = (threat["norm"], threat["epsilon"], card["suite"], tuple(sorted(card["members"])), card["steps"])
    return (data["name"], checksums, *(data.get(key) for key in FRAME), attack, tuple(_surrogates(card)))


def _surrogates(card: ResultCard) -> list[str]:
    return sorted(card.get("surrogates") or [])  # cards of older versions lack them


def _group(cards: Sequence[ResultCard]) -> dict[str, Any]:
    first = cards[0]
    models: dict[Hashable, list[ResultCard]] = {}
    for card in cards:
        models.setdefault((card["name"], *(card["model"].get(key) for key in MODEL)), []).append(card)
    return {
        "dataset": {
            "name": first["dataset"]["name"],
            "sizes": {split: first["dataset"]["sizes"][split] for split in ("query", "database")},
            "checksums": {split: first["dataset"]["checksums"][split] for split in ("query", "database")},
        },
        **first["threat"],
        "suite": first["suite"],
        "members": list(first["members"]),
        "surrogates": _surrogates(first),
        "steps": first["steps"],
        "chance_map": fmean(card["chance_map"] for card in cards),
        "rows": rank([_row(its_cards) for its_cards in models.values()]),
    }


def _group_order(group: Mapping[str, Any]) -> tuple[Any, ...]:
    checksums = group["dataset"]["checksums"]
    place = (group["dataset"]["name"], checksums["query"], checksums["database"], group["norm"], group["epsilon"])
    return (*place, group["suite"], group["steps"], group["members"], group["surrogates"])


def _row(cards: Sequence[ResultCard]) -> dict[str, Any]:
    """Return the row of cards of one name and kind; of a model that was measured again the lowest worst case counts."""
    models: dict[Hashable, list[ResultCard]] = {}
    for place, card in enumerate(cards):
        models.setdefault(card["model"].get("checksum") or place, []).append(card)
    runs = [min(again, key=lambda card: card["worst_map"]) for again in models.values()]
    first = runs[0]
    means = {key: fmean(card[key] for card in runs) for key in ("clean_map", "worst_map", "chance_map")}
    share = surviving_share(means | {"attacked_map": means["worst_map"]})
    return {
        "name": first["name"],
        "model": {key: first["model"].get(key) for key in MODEL},
        "runs": len(runs),
        "seeds": sorted(card["seed"] for card in runs),
        "clean_map": spread([card["clean_map"] for card in runs]),
        "worst_map": spread([card["worst_map"] for card in runs]),
        "worst_map_interval": first["worst_map_interval"] if len(runs) == 1 else None,
        "worst_map_paper": fmean(card["worst_map_paper"] for card in runs),
        "chance_map": means["chance_map"],
        "chance_map_paper": first.get("chance_map_paper"),
        "any_code_map": fmean(card["any_code_map"] for card in runs),
        "members": {name: fmean(card["members"][name] for card in runs) for name in first["members"]},
        "surviving_share": share,
        "no_better_than_chance": is_chance(share),
        "unreliable_runs": sum(any(card["unreliable"] for card in again) for again in models.values()),
        "flags": sorted({flag for card in cards for flag in card["flags"]}),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean, minimum and maximum.

    >>> spread([0.25, 0.75])
    {'mean': 0.5, 'min': 0.25, 'max': 0.75}
    """
    return {"mean": fmean(values), "min": min(values), "max": max(values)}


def rank(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows by worst-case MAP, the highest first, each with its `rank`.

    Rows no better than chance come after the ranked ones and rows with an unreliable run come last; neither is robust
    by any number here, so their rank is None.
    """

    def order(row: Mapping[str, Any]) -> tuple[Any, ...]:
        kind = str([row["model"][key] for key in MODEL])
        return (row["unreliable_runs"] > 0, row["no_better_than_chance"], -row["worst_map"]["mean"], row["name"], kind)

    places = enumerate(sorted(rows, key=order), start=1)  # the ranked rows come first, so their place is their rank
    return [
        {"rank": None if row["unreliable_runs"] or row["no_better_than_chance"] else place, **row}
        for place, row in places
    ]


def standing(row: Mapping[str, Any]) -> str:
    """Return what keeps a row from its rank, in words; nothing for a ranked row."""
    told = []
    if row["unreliable_runs"]:
        share = f" in {row['unreliable_runs']} of {row['runs']} runs" if row["runs"] > 1 else ""
        told.append(f"unreliable{share}: {', '.join(row['flags'])}")
    if row["no_better_than_chance"]:
        told.append("no better than chance")
    return "; ".join(told)


def kind(row: Mapping[str, Any]) -> str:
    """Return what kind of model a row is of, in words.

    >>> kind({"model": {"backbone": "resnet20", "code_length": 32, "loss": "csq", "defense": "saat"}, "runs": 3})
    'resnet20, 32 bits, loss csq, hardened by saat; 3 runs'
    """
    model = row["model"]
    told = [model["backbone"], f"{model['code_length']} bits"]
    told += [f"loss {model['loss']}"] if model["loss"] else []
    told += [f"hardened by {model['defense']}"] if model["defense"] else []
    return ", ".join(told) + (f"; {row['runs']} runs" if row["runs"] > 1 else "")


def margin(row: Mapping[str, Any]) -> str:
    """Return how far the worst-case MAP of a row may be off: over its runs, or over the queries of its only run."""
    if row["runs"] > 1:
        return f"{row['worst_map']['min']:.3f} to {row['worst_map']['max']:.3f} over {row['runs']} runs"
    low, high = row["worst_map_interval"]
    return f"{low:.3f} to {high:.3f} (95%)"


def kept(row: Mapping[str, Any]) -> str:
    """Return the share of the lead over chance that survives, in words."""
    share = row["surviving_share"]
    return "none to lose" if share is None else f"{share:.0%}"


def summary(group: Mapping[str, Any]) -> str:
    """Return what the rows of a group say, in one sentence."""
    best = group["rows"][0]
    if best["rank"] is None:
        return "No model here is both without flags and better than chance, so none has a rank."
    numbers = f"{best['worst_map']['mean']:.3f} of {best['clean_map']['mean']:.3f} MAP"
    models, unranked = len(group["rows"]), sum(row["rank"] is None for row in group["rows"])
    aside = f" ({unranked} without a rank)" if unranked else ""
    opening = f"Of {models} models{aside}, {best['name']} holds best: it" if models > 1 else best["name"]
    return f"{opening} keeps {numbers}, {kept(best)} of its lead over a random ranking ({best['chance_map']:.3f})."


def write_leaderboard(board: Mapping[str, Any], out: Path) -> Path:
    """Write `leaderboard.html` (self-contained), `leaderboard.md` and `leaderboard.json`; return the page's path."""
    environment = page_environment()
    environment.filters.update(standing=standing, kind=kind, margin=margin, kept=kept, summary=summary)
    pages = {name: environment.get_template(name).render(board) for name in ("leaderboard.html", "leaderboard.md")}
    pages["leaderboard.json"] = json.dumps(board, indent=2) + "\n"
    for name, page in pages.items():
        write_text(out / name, page)
    return out / "leaderboard.html"
