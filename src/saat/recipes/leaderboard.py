"""One leaderboard from many result cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saat.evaluation.leaderboard import find_cards, kept, kind, make_leaderboard, margin, standing, write_leaderboard
from saat.evaluation.report import strength
from saat.recipes.tables import print_table


@dataclass(frozen=True, kw_only=True)
class LeaderboardConfig:
    """Rank the result cards that `saat evaluate --suite` wrote by their worst case: a table, a page, Markdown and JSON.

    Args:
        cards: a folder, or a list of them: result.json at any depth, and other JSON files right in the folder.
        out: folder for leaderboard.html, leaderboard.md and leaderboard.json.
    """

    cards: list[Path] | Path
    out: Path


def leaderboard(config: LeaderboardConfig) -> Path:
    """Print and write the leaderboard; return the path of its page."""
    found = find_cards([config.cards] if isinstance(config.cards, Path) else config.cards)
    board = make_leaderboard(found)
    for group in board["groups"]:
        print_group(group)
    if found.repeated:
        print(f"files that repeat a measurement, which counts once: {found.repeated}")
    if found.left_out:
        print(f"left out, as no readable result card: {len(found.left_out)}")
        for file, why in found.left_out.items():
            print(f"  {file}: {why}")
    page = write_leaderboard(board, config.out)
    print(f"leaderboard: {page}")
    return page


def print_group(group: Mapping[str, Any]) -> None:
    """Print the rows of one group."""
    title = f"{group['dataset']['name']}, epsilon {strength(group)}, suite {group['suite']}, {group['steps']} steps"
    rows = [
        (
            str(row["rank"] or "-"),
            f"{row['name']}\n{kind(row)}",
            f"{row['worst_map']['mean']:.3f}\n{margin(row)}",
            f"{row['clean_map']['mean']:.3f}",
            f"{row['chance_map']:.3f}",
            standing(row) or kept(row),
        )
        for row in group["rows"]
    ]
    print_table(title, ("rank", "model", "worst-case MAP", "clean", "chance", "lead that survives"), rows)
