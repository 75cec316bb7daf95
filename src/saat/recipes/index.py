"""Build an index of images, add to it, remove from it, describe it, verify it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saat.errors import ArgumentError, DataError, check_at_least
from saat.index.address import is_address
from saat.index.catalog import open_remote
from saat.index.content import IndexContent
from saat.index.storage import (
    MANIFEST,
    check_new,
    create_index,
    read_index,
    read_manifest,
    read_state,
    update_index,
    verify_index,
)
from saat.index.where import select_ids
from saat.recipes.damaged import keep_damaged, print_damaged
from saat.recipes.encoder import (
    Encoded,
    Encoder,
    check_model,
    encode_items,
    kept_identities,
    load_encoders,
    remove_leftovers,
    remove_work,
)
from saat.recipes.items import Items, read_items
from saat.recipes.tables import print_table
from saat.runtime import RunOptions


@dataclass(frozen=True, kw_only=True)
class BuildConfig(RunOptions):
    """Build an index: encode images and write a folder that `saat search` takes. The same command goes on after a stop.

    Args:
        checkpoint: folder of a checkpoint.
        images: image files, folders (subfolders are labels), .txt lists of paths, image-list folders, Parquet sets.
        out: folder for the index.
        model: your own model: package.module:factory.
        batch_size: images at a time; a stop costs at most so many.
    """

    checkpoint: Path
    images: list[Path]
    out: Path
    model: str | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_at_least("batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class AddConfig(RunOptions):
    """Add images to an index; those whose path is in it already are passed over.

    Args:
        index: folder of the index.
        images: as in `saat index build`.
        checkpoint: of the model that the index was built with, or hardened from it for queries only; needed if the
            checkpoint that the index names has moved.
        model: your own model: package.module:factory.
        batch_size: images at a time; a stop costs at most so many.
    """

    index: Path
    images: list[Path]
    checkpoint: Path | None = None
    model: str | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_at_least("batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class RemoveConfig:
    """Remove items from an index, by their ids or by a condition on their metadata.

    Args:
        index: folder of the index.
        ids: of the items, such as [3, 17].
        where: a condition, such as "label == 'cat'".
        quiet: print nothing.
    """

    index: Path
    ids: list[int] | None = None
    where: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if (self.ids is None) == (self.where is None):
            raise ArgumentError("give `ids` or `where`, one of the two, to say which items are removed")
        if self.ids and not 0 <= min(self.ids) <= max(self.ids) < 2**63:
            raise ArgumentError(f"`ids` are at least 0 and below 2^63; got {self.ids}")


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Describe an index: items, model, columns, files.

    Args:
        index: folder of the index, or the address that `saat index push` moved it to.
        quiet: print nothing.
    """

    index: str | Path
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check every byte of an index, and name what is damaged.

    Args:
        index: folder of the index.
        quiet: print nothing.
    """

    index: Path
    quiet: bool = False


def build(config: BuildConfig) -> dict[str, Any]:
    """Build by `config`, print what was done, and return it."""
    written = (config.out / MANIFEST).exists()
    kept = kept_identities(config.out) if written else set()
    if not kept:
        check_new(config.out)
    device = config.start()
    items = read_items(config.images)
    if written and not _was_built_from(items, config.out, kept):
        check_new(config.out)
    encoder = load_encoders(config.checkpoint, config.model, device=device).items
    if written:
        check_model(encoder, read_manifest(config.out).model, index="out")
    encoded = _encode(items, encoder, config.out, config.batch_size, quiet=config.quiet)
    if not encoded.rows:
        raise DataError(f"at least one image can be decoded; all {len(items)} failed, first {encoded.damaged[0]}")
    if written:  # the stop came after that: what is new are images that could not be read before
        manifest = update_index(config.out, lambda old: _with_items(old, items, encoded, encoder))
    else:
        manifest = create_index(config.out, _with_items(IndexContent.empty(encoder.key), items, encoded, encoder))
    keep_damaged(config.out, encoded.damaged, items.paths)
    remove_work(config.out)  # last: until then the same command goes on
    return _told(_report(items, encoded) | {"count": manifest.count}, encoded.damaged, config.out, quiet=config.quiet)


def add(config: AddConfig) -> dict[str, Any]:
    """Add by `config`, print what was done, and return it."""
    device = config.start()
    manifest, content = known = read_state(config.index)
    encoder = load_encoders(config.checkpoint or Path(content.model.checkpoint), config.model, device=device).items
    check_model(encoder, content.model)
    found = read_items(config.images)
    items = found.take(_new_rows(content, found.paths))
    encoded = _encode(items, encoder, config.index, config.batch_size, quiet=config.quiet)
    if encoded.rows:
        manifest = update_index(config.index, lambda old: _with_items(old, items, encoded, encoder), known=known)
    remove_leftovers(config.index, found.identities)
    keep_damaged(config.index, encoded.damaged, found.paths)
    report = _report(items, encoded) | {"count": manifest.count, "already_there": len(found) - len(items)}
    return _told(report, encoded.damaged, config.index, quiet=config.quiet)


def remove(config: RemoveConfig) -> dict[str, Any]:
    """Remove by `config`, print how many items are gone and which ids are of none, and return it."""
    report: dict[str, Any] = {}

    def change(content: IndexContent) -> IndexContent:
        given = np.array(config.ids or (), np.int64)
        ids = np.unique(given if config.where is None else select_ids(content.metadata, config.where))
        unknown = np.setdiff1d(ids, content.ids, assume_unique=True).tolist()
        report.update(removed=len(ids) - len(unknown), unknown=unknown)
        return content.without(ids)

    report["count"] = update_index(config.index, change).count
    remove_leftovers(config.index)
    if not config.quiet:
        none = f"; no item has the id {', '.join(map(str, report['unknown']))}" if report["unknown"] else ""
        print(f"{config.index}: {report['removed']:,} removed, {report['count']:,} items{none}")
    return report


def info(config: InfoConfig) -> dict[str, Any]:
    """Print what the manifest of an index says, and return it with the columns of its metadata."""
    if is_address(config.index):
        return _remote_info(config)
    manifest, content = read_state(Path(config.index))
    columns = {field.name: str(field.type) for field in content.metadata.schema}
    report = asdict(manifest) | {"columns": columns, "distinct_codes": len(np.unique(content.packed, axis=0))}
    if not config.quiet:
        rows = [
            ("items", f"{manifest.count:,}"),
            ("distinct codes", f"{report['distinct_codes']:,}"),
            ("code length", f"{manifest.model.code_length} bits"),
            ("model", f"{manifest.model.weights} from {manifest.model.checkpoint}"),
            ("columns", ", ".join(f"{name} ({kind})" for name, kind in columns.items())),
            ("created", manifest.created),
            ("identity", manifest.identity),
            ("changed", manifest.changed),
            ("saat", manifest.saat),
            *((name, f"{entry.bytes:,} bytes, {entry.name}") for name, entry in manifest.files.items()),
        ]
        print_table(f"Index {config.index}", ("", "what it holds"), rows)
    return report


def _remote_info(config: InfoConfig) -> dict[str, Any]:
    with open_remote(str(config.index)) as remote:
        manifest, count = remote.manifest, len(remote)
    columns = {field.name: str(field.type) for field in manifest.schema}
    if not config.quiet:
        rows = [
            ("items", f"{count:,}"),
            ("code length", f"{manifest.model.code_length} bits"),
            ("model", f"{manifest.model.weights} from {manifest.model.checkpoint}"),
            ("columns", ", ".join(f"{name} ({kind})" for name, kind in columns.items())),
            ("created", manifest.created),
            ("identity", manifest.identity),
            ("last push", "complete" if manifest.complete else "stopped; give the same `saat index push` again"),
        ]
        print_table(f"Index {remote.address}", ("", "what it holds"), rows)
    kept = {name: getattr(manifest, name) for name in ("identity", "created", "next_id", "complete")}
    return kept | {"count": count, "model": asdict(manifest.model), "columns": columns}


def verify(config: VerifyConfig) -> dict[str, Any]:
    """Check an index, and print that it is sound.

    Raises:
        DataError: it is not; every damaged file is named.
    """
    if damaged := verify_index(config.index):
        raise DataError("; ".join(damaged))
    count = read_manifest(config.index).count
    if not config.quiet:
        print(f"{config.index}: sound, {count:,} items")
    return {"count": count}


def _was_built_from(items: Items, folder: Path, kept: Collection[str]) -> bool:
    """Return whether an index is that of `items`, by a build that was stopped before it removed what it had kept."""
    encoded = {path for path, identity in zip(items.paths, items.identities, strict=True) if identity in kept}
    held = set(read_index(folder).metadata.column("path").to_pylist())
    return bool(encoded) and encoded <= held <= set(items.paths)


def _encode(items: Items, encoder: Encoder, folder: Path, batch_size: int, *, quiet: bool) -> Encoded:
    return encode_items(items, encoder, folder / encoder.work_name(), batch_size=batch_size, quiet=quiet)


def _new_rows(content: IndexContent, paths: Sequence[str]) -> list[int]:
    """Return the rows of those `paths` that are not in the index."""
    known = set(content.metadata.column("path").to_pylist()) if len(content) else set()
    return [row for row, path in enumerate(paths) if path not in known]


def _with_items(content: IndexContent, items: Items, encoded: Encoded, encoder: Encoder) -> IndexContent:
    """Return the index with the encoded items, without those that another writer has added meanwhile."""
    sound = items.take(encoded.rows)
    new = _new_rows(content, sound.paths)
    return content.added(encoded.packed[new], sound.take(new).columns, model=encoder.key)


def _report(items: Items, encoded: Encoded) -> dict[str, Any]:
    return {
        "images": len(items),
        "encoded": len(items) - encoded.resumed,
        "resumed": encoded.resumed,
        "damaged": list(encoded.damaged),
    }


def _told(report: Mapping[str, Any], damaged: Sequence[str], folder: Path, *, quiet: bool) -> dict[str, Any]:
    """Print what was done, and return it."""
    if not quiet:
        known = f", {report['already_there']:,} already there" if report.get("already_there") else ""
        resumed = f", {report['resumed']:,} of them before a stop" if report["resumed"] else ""
        sound = report["images"] - len(damaged)
        print(f"{folder}: {report['count']:,} items; {sound:,} images encoded{resumed}{known}")
        print_damaged(folder, damaged)
    return dict(report)
