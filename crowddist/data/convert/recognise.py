"""Which format a folder is in, by what it holds: for labelled data that is given by its place alone."""

from __future__ import annotations

from pathlib import Path

from crowddist.data.config import RAW_FORMATS
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import holds
from crowddist.data.convert.sample import find_items
from crowddist.errors import InputError


def recognise(folder: Path) -> str:
    """The name of the first format that finds labelled images in the folder. Raises InputError, saying what is there
    and what is read, if none does. Opens labels: never ask it of a target.
    """
    for name in RAW_FORMATS:
        form = FORMATS[name]
        try:
            items = find_items(form, folder, form.splits[0], labelled=True).items
        except (InputError, OSError):
            continue
        if items and any(path.exists() for path in items[0].annotations):
            return name
    raise InputError(f"no labels that are read in {folder}: {holds(folder)}; read are {', '.join(RAW_FORMATS)}: bring "
                     "your own into a .csv with the columns file, x, y beside the images")
