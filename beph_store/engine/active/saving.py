"""Heads of tile classes that were saved: a folder each in the store, with the labels they were learned from.

``classifier.json`` and ``classifier.npz`` are what `beph_store.heads.tile_classifier.load_classifier` opens;
``labels.csv`` the labels, with who gave them when; ``about.json``, written last, makes the folder a saved head.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import unicodedata
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beph_store.cells import escaped
from beph_store.engine.active.labels import Label, Labels, SlideMark, TileMark, said
from beph_store.engine.active.refit import TileHead
from beph_store.engine.search.table import SearchTable
from beph_store.errors import HeadError, StoreError, UsageError
from beph_store.heads.tile_classifier import TileClassifier, save_classifier
from beph_store.store.durable import sync_folder, write_atomic, write_json
from beph_store.store.layout import Layout
from beph_store.store.place import Place, children, put_folder

ABOUT_FILE, LABELS_FILE = "about.json", "labels.csv"
_FORMAT = 1


class NameTaken(UsageError):
    """A head of that name is there already."""


def slug(title: str) -> str:
    """The folder for a title: small letters, digits and hyphens; UsageError where none is left."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-")
    if not name:
        raise UsageError("the name has no letter or digit: give another")
    return name


def save_tile_head(
    table: SearchTable, head: TileHead, labels: Labels, title: str, who: str
) -> dict[str, Any]:
    """Keep a head in its store under a name; returns what `saved_heads` tells of it.

    Raises UsageError for a name that cannot be used, NameTaken for one that is, StoreError where it cannot be written.
    """
    title, who = said(title, "name"), said(who, "who")
    layout = table.store.layout
    name = slug(title)
    folder = layout.classifiers(head.recipe_key) / name
    home = layout.work / "classifiers" / head.recipe_key
    aside = home / f".{name}.{uuid.uuid4().hex}"
    encoder = table.record.recipe.encoder
    about = {
        "format": _FORMAT,
        "name": name,
        "title": title,
        "who": who,
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "recipe": head.recipe_key,
        **head.to_json(),
    }
    try:
        aside.mkdir(parents=True)
        classifier = TileClassifier(
            head.classes, head.coef, head.intercept, encoder.name, encoder.weights_sha256
        )
        save_classifier(classifier, aside)
        write_atomic(aside / LABELS_FILE, tiles_csv(labels, _cases(table)).encode("utf-8", "surrogateescape"))
        write_json(aside / ABOUT_FILE, about)
        if folder.exists():
            raise NameTaken(f"a head is called {name} already: delete it, or give another name")
        if isinstance(folder, Path):
            aside.rename(folder)
            sync_folder(home)
        else:
            put_folder(aside, folder, last=ABOUT_FILE)
    except OSError as error:
        if folder.exists():  # made by another in this instant
            raise NameTaken(f"a head is called {name} already: delete it, or give another name") from None
        raise StoreError(f"the head cannot be saved: {error}", path=home) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return about


def saved_heads(layout: Layout, key: str) -> list[dict[str, Any]]:
    """What is known of every saved head of a recipe, oldest first."""
    found = []
    for path in layout.classifiers(key).glob(f"[!.]*/{ABOUT_FILE}"):
        with suppress(OSError, ValueError):
            about = json.loads(path.read_bytes())
            if about["format"] == _FORMAT and about["name"] == path.parent.name:
                found.append(about)
    return sorted(found, key=lambda about: (about["saved_at"], about["name"]))


def saved_folder(layout: Layout, key: str, name: str) -> Place:
    """Where a saved head lies; HeadError for a name that `saved_heads` does not list."""
    if name not in {about["name"] for about in saved_heads(layout, key)}:
        raise HeadError(f"no saved head is called {name[:60]!r}")
    return layout.classifiers(key) / name


def packed(folder: Place) -> bytes:
    """A saved head as a ZIP file, without compression."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in children(folder, "*"):
            archive.writestr(f"{folder.name}/{path.name}", path.read_bytes())
    return file.getvalue()


def remove_saved(layout: Layout, key: str, name: str) -> None:
    """Delete a saved head; HeadError where there is none, StoreError where it stays."""
    folder = saved_folder(layout, key, name)
    if not isinstance(folder, Path):
        (folder / ABOUT_FILE).unlink()
        folder.remove_below()
        return
    away = folder.with_name(f".{name}.{uuid.uuid4().hex}")
    try:
        folder.rename(away)
        shutil.rmtree(away)
    except OSError as error:
        raise StoreError(f"the saved head {name} cannot be deleted: {error}", path=folder) from error


def _cases(table: SearchTable) -> dict[str, str]:
    return dict(zip(table.flat.slide_ids, table.case_of, strict=True))


def tiles_csv(labels: Labels, cases: Mapping[str, str]) -> str:
    """Labelled tiles as a table that `beph-store probe --labels` reads, with who gave each label and when."""
    rows = []
    for label in labels.tiles.values():
        mark = label.mark
        assert isinstance(mark, TileMark)
        where = (mark.slide_id, cases.get(mark.slide_id, mark.slide_id), mark.tile, mark.x, mark.y)
        rows.append((*where, mark.label, label.who, label.at))
    return _table(("slide_id", "case_id", "tile", "x", "y", "label", "who", "at"), rows)


def slides_csv(labels: Labels, cases: Mapping[str, str]) -> str:
    """Labelled slides as a table of a cohort: slide_id, case_id, and a column for each that was labelled."""
    columns = slide_columns(labels.slides.values())
    rows: dict[str, dict[str, str | None]] = {}
    for label in labels.slides.values():
        assert isinstance(label.mark, SlideMark)
        rows.setdefault(label.mark.slide_id, {})[label.mark.column] = label.mark.label
    lines = [
        (slide_id, cases.get(slide_id, slide_id), *(values.get(name) or "" for name in columns))
        for slide_id, values in sorted(rows.items())
    ]
    return _table(("slide_id", "case_id", *columns), lines)


def slide_columns(labels: Iterable[Label]) -> list[str]:
    """Columns of slides that have a value, ``label`` first, then by name."""
    names = {label.mark.column for label in labels if isinstance(label.mark, SlideMark)}
    return sorted(names, key=lambda name: (name != "label", name))


def _table(header: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(escaped, header))
    writer.writerows([escaped(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue()
