"""The published tables beside their chance levels, and how to reproduce them with the images and a GPU."""

from __future__ import annotations

import json
from pathlib import Path

from markdown_tables import markdown

PUBLISHED = Path(__file__).parent / "published.json"
READING = """\
A random ranking has the MAP in the line `chance`. On FLICKR-25K and MS-COCO the published MAP after hardening, under
attack, is at or below it; on NUS-WIDE a little above. It says that an attacker cannot push results further, not that
the search still finds something. Chance of NUS-WIDE is a rough figure from its class-balanced lists."""
REPRODUCING = """\
The images of these sets cannot be shipped, so none of these numbers was reproduced here; what could be is in the tables
above, on CIFAR-10 and Corel5k. With the images, their lists in the papers' layout (`database_img.txt`,
`database_label.txt` and so on, see [quickstart](quickstart.md)) and a GPU, these commands are the tables, a column each
round, but for what [differs from the papers](design.md#7-differences-from-the-papers):

```sh
for set in FLICKR-25K NUS-WIDE MS-COCO; do for bits in 16 32 48 64; do  # a folder of images and lists each
run=runs/$set-$bits
saat train --out $run-plain --preset paper --data.name image-list --data.root $set --data.image_size 224 \\
           --backbone alexnet --weights imagenet --loss dph --code_length $bits
saat harden $run-plain --out $run-paper --preset paper
saat harden $run-plain --out $run-atrdh --preset atrdh --fit.momentum 0
for model in plain paper atrdh; do for attack in paper hag sdha; do
saat attack $run-$model --preset $attack --out $run-$model-by-$attack
done; done
for attack in paper-targeted p2p dhta tha pros-gan; do saat attack $run-plain --preset $attack --out $run-$attack; done
saat evaluate $run-paper --suite standard --out $run-suite  # not in the paper
done; done
```

`attacked_map_paper` in each `report.json` has the papers' convention (MAP@5000), `chance_map` the chance level.
"""


def published_sections() -> list[str]:
    """Return the sections of the published tables."""
    published = json.loads(PUBLISHED.read_text())
    columns = ("model, queries", *(f"{bits} bits" for bits in published["code_lengths"]))
    parts = [f"## Published figures\n\n{published['source']}.\n\n{READING}\n"]
    for name, rows in published["tables"].items():
        table = [[label, *(f"{value:.2f}" for value in values)] for label, values in rows.items()]
        table.append(["chance", *[published["chance"][name]] * len(published["code_lengths"])])
        parts.append(f"### {name}\n\n{markdown(columns, table, text_columns=1)}\n")
    targeted = published["targeted_t_map_32_bits"]
    attacks = tuple(next(iter(targeted.values())))
    table = [[name, *(f"{values[attack]:.2f}" for attack in attacks)] for name, values in targeted.items()]
    parts.append(f"### Targeted, t-MAP at 32 bits\n\n{markdown(('data set', *attacks), table, text_columns=1)}\n")
    parts.append(f"### How to reproduce them\n\n{REPRODUCING}")
    return parts
