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
`database_label.txt` and so on, see [quickstart](quickstart.md)) and a GPU, each column of a table is:

```sh
saat train    --out runs/flickr-32 --data.name image-list --data.root FLICKR-25K --data.image_size 224 \\
              --backbone alexnet --weights imagenet --loss dph --code_length 32
saat attack   --checkpoint runs/flickr-32 --preset paper --out runs/flickr-32-saat    # and --preset hag, --preset sdha
saat harden   --checkpoint runs/flickr-32 --preset paper --out runs/flickr-32-hard    # and --preset atrdh
saat attack   --checkpoint runs/flickr-32-hard --preset paper --out runs/flickr-32-hard-saat
# targeted: and p2p, dhta, tha, pros-gan
saat attack   --checkpoint runs/flickr-32 --preset paper-targeted --out runs/flickr-32-targeted
saat evaluate --checkpoint runs/flickr-32-hard --suite standard --out runs/flickr-32-hard-suite    # not in the paper
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
