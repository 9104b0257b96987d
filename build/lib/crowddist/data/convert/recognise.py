"""Which format a folder is in, by what it holds: for labelled data that is given by its place alone."""

from __future__ import annotations

from pathlib import Path

from crowddist.data.config import OWN_FORMATS, RAW_FORMATS
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import holds
from crowddist.data.convert.own import OtherFileError
from crowddist.data.convert.sample import find_items
from crowddist.errors import InputError


def recognise(folder: Path) -> str:
    """The name of the first format that finds labelled images in the folder, and nothing to refuse, or else of the
    first that finds some. Raises InputError, saying what is there, what is wrong with it and what is read, if none
    does. Opens labels: never ask it of a target.
    """
    second = ""
    reasons = []
    for name in RAW_FORMATS:
        form = FORMATS[name]
        try:
            listing = find_items(form, folder, form.splits[0], labelled=True)
        except (OtherFileError, OSError):
            continue
        except InputError as error:
            reasons += [str(error)] if name in OWN_FORMATS else []
            continue
        if any(path.exists() for item in listing.items for path in item.annotations):
            if not listing.refused:
                return name
            second = second or name
        reasons += [f"{path}: {reason}" for path, reason in listing.refused] if name in OWN_FORMATS else []
    if second:
        return second
    found = "; ".join((holds(folder), *reasons[:1]))
    raise InputError(f"no labels that are read in {folder}: {found}; read are {', '.join(RAW_FORMATS)}: bring your own "
                     "into a .csv with the columns file, x, y beside the images")
