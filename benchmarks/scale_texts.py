"""The words of docs/scale.md; `make_scale.py` fills in the numbers."""

from __future__ import annotations

INTRODUCTION = """\
# Scale

How many bytes, machines and milliseconds for N images and codes of K bits, and what to change at each power of ten.
Made by `benchmarks/make_scale.py` from the files in `benchmarks/results/`. What is measured is called so; the rest is
arithmetic.
"""
BYTES = """\
## Bytes

    bytes = N * K / 8          codes, one bit a bit
          + N * 8              ids, int64
          + N * metadata       path, label and your columns

Metadata are set at {metadata} bytes an item here, a path and a label. They, not the codes, fill disk and memory. The
images, at {photo} KB, lie on the disk only.

{table}
"""
MACHINES = """\
## Machines

`saat serve` on a folder holds metadata, and codes and ids twice: as they were read, and in FAISS. A change by
`POST /items` writes all three files anew and holds two states meanwhile, what is searched and the new one: twice the
figure, and three times where another command has changed the index, which is read then. `saat index merge`, too, holds
the parts and the index that they become.
Not in it are codes and ids of the items of the last few conditions. With {length} bits and {metadata} bytes of
metadata, on machines of {machine} of which {spare:.0%} stay free:

{table}

The images of a search come from the disk, a file each; {photo} KB times N is for a file server or an object store
mounted as a folder.
"""
TIMES = """\
## Time of a query

An exact search compares the query with every code, so its time grows as N * K. Measured, {threads}, k = 10, one query
a call:

{measured}

For more images, the time of the largest size measured, {largest}, times the ratio of sizes. Codes that fit in the
caches are read faster than those that do not, so a small size flatters large ones.

{projected}
"""
WITHIN = """\
Searches within a radius need not look at every code. `multi-index` against comparing all, at {items} images, a query a
call: how many times as fast as the faster of numpy and FAISS; over `flat`, which is numpy, the least of all radii from
2 to {most}; and how many items a ball of radius {most} holds. Uniform codes are fair bits, clustered ones lie around
300 random centers, trained ones are a model's. In `benchmarks/results/search.json`, `over_flat` is over the faster of
the two, whatever its name, and so is `multi_index_over_flat_...`, the least of all radii at 64 and 128 bits.

{table}

Where a ball holds much of the database, every method must at least write down what it finds, and soon all codes are
compared. Codes of a trained model lie closer than random ones, so measure with yours.
"""
PROCESS = """\
The process itself is not in the table: `saat serve` with its libraries, a small model and an index of {items:,} images
took {process} at most, measured under good and bad requests at once. Add that.
"""
SERVING = """\
## Encoding

A search by image costs its decoding and its encoding before it costs the index. Measured on {cores}, images of about
{photo} KB, a model of {weights} weights at {size} x {size} pixels{quick}: the encoder alone {encoder}, the service
{service} with {clients} clients (half within {p50} ms, 99 % within {p99} ms). Larger models cost more; measure yours
with `benchmarks/bench_serve.py --checkpoint DIR`. At that rate the first index takes, on one such machine:

{build}

The work is divided by giving each machine a part of the images and building one index a part; `saat index merge` joins
[the parts](index.md#in-parts) to one, and reads no image.
"""
KILLS = """\
## Kills

A process that builds, changes and pushes indexes was killed by SIGKILL at random moments. Counted are acknowledged
changes that were lost, folders that `verify` found damaged, addresses that passed for whole and held a mixture or an
older state, those that had been whole and were seen as a part, and those that differed from their folder, or were
searched otherwise, after the next push. So were `saat index build`, `add` and `remove` on image files, each then given
again, which had to end where it would have (`benchmarks/fault_index.py`).

{table}

A round is a process, and SIGKILL at a random moment. "In a write" and "in a push" are the kills between the process's
word that it begins one and its word that it is done; "of a whole index" are those in a push to an address whose first
push was done, which is one switch. `saat index` itself says no such words: there "in a write" are the kills that met
the command running, some of them before it wrote anything; in the other rounds it had ended already.
"""
SERVERS = """\
## On a server

An index in Milvus {milvus} or in PostgreSQL with pgvector, codes of {length} bits, items with {metadata:.0f} bytes of
metadata, server and client together on {cores} cores (`benchmarks/bench_servers.py`). Each answered as `faiss` did on
the same codes, ties included. Measured: the rate of a push to an empty place; bytes an image on the disk, and in the
memory of Milvus's process; and the time of a query at k = 10, one a call and each of {batch} in a call.

{table}

Milvus waits in each call for the writes before it; queries of one call wait once. Of its bytes on the disk, {log:.0%}
are its log of messages, which it keeps for three days. Small indexes have a part of what each process takes anyway.
"""
GRAPH = """\
The graph of `saat index push --hnsw true` in PostgreSQL, with `maintenance_work_mem` at 2 GB: what it adds on the disk,
how many times as fast as comparing every code there a query is, one a call, and what it finds:

{table}
"""
SERVERS_FURTHER = """\
For more images, the figures of uniform codes at the largest size measured, times the ratio of sizes, as if one such
machine held them; a query is one of {batch} in a call. Part of that time does not grow, so it is at most so long while
memory holds what is compared. In PostgreSQL a search ends after [a minute](index.md#on-a-server) unless you allow more.

{table}
"""
RECALL = """\
## Recall and speed

`hnsw` and `ivf` look at a part of the codes. The share of the 10 nearest that they find, and queries a second, one a
call, {threads}, codes of {length} bits, in turns with `faiss`, which compares all (`benchmarks/bench_recall.py`).
`effort` is the number of candidates that a walk keeps, `share` that of lists looked at.
"""
RECALL_TABLE = """\
At {items} images:

{table}
"""
STRUCTURES = """\
To build each, and its memory with codes and ids, the most of all codes; beyond what was measured, times the ratio of
sizes.

{table}

Where codes lie close together, many are as near as the tenth, and a tie counts as found whichever is named. On
uniform codes, where nothing is near, both structures find least. Measure with yours: `saat.index.recall.recall_at`.
"""
STEPS = """\
## What to change

`saat serve` searches exactly, by `faiss`, whatever the size, unless `--backend` names another structure. It builds
that when it starts, as `saat.index.catalog.make_index` does in Python; on a folder, `saat search --backend` builds it
anew at each call, which takes longer than the search that it spares. `saat index merge` joins indexes to one; saat has
no program that merges the answers of several services: a client does it, by (distance, id).

| images | what to do |
|---:|---|
| 10^6 | Nothing. A folder, one machine. |
| 10^7 | Add images in bulk, by `saat index add`, for each change writes every file. At 32 bits many items share \
a code and come in order of id: take 64. Wide metadata go to a server: `saat index push`. |
| 10^8 | One query alone takes long enough to be felt. Parts on several machines, a service each; or Milvus as a \
cluster, which divides a collection by itself. Encode on several machines, too, and join by `saat index merge` \
what one service is to search, or one push to move.{servers_8} For radii of a few bits, `multi-index` from Python, if \
your codes are not so clustered that a ball holds much of the database; where some loss is allowed, `saat serve \
--backend` with `ivf` or `hnsw`.{structures_8} |
| 10^9 | Parts of 10^8, each joined by `saat index merge` of what several machines encoded.{servers_9} A part \
cannot be rewritten for each change: keep new items in a small one, and merge it with another at night, which gives \
new ids. With `ivf` or `hnsw`, measure recall on your own queries: \
`saat.index.recall.recall_at`.{structures_9} |

Robustness does not grow with N. The more images, the more of them lie within any distance of a query, attacked or not:
measure with a database of the size that you will serve.
"""
