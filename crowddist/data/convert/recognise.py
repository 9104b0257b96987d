"""Which format a folder is in, by what it holds: for labelled data that is given by its place alone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from crowddist.data.config import OWN_FORMATS, RAW_FORMATS
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import Format, Listing, holds
from crowddist.data.convert.own import OWN_WAY, OtherFileError
from crowddist.data.convert.sample import DEEPEST, find_items
from crowddist.errors import InputError

# Those that read any file of points, also of a public set, whose splits and regions of interest they do not know.
_OF_ANY_POINTS = ("json", "mat")
_PUBLISHED = tuple(name for name in RAW_FORMATS if "test" in FORMATS[name].splits)


def recognise(folder: Path) -> str:
    """The name of the first format that finds labelled images in the folder, and nothing to refuse, or else of the
    first that finds some. Raises InputError, saying what is there, what is wrong with it and what is read, if none
    does, or if the labels are a public set's that is not whole or does not lie alone. Opens labels: never ask it of a
    target.
    """
    second: tuple[str, Listing] | None = None
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
                return _known(name, folder, listing)
            second = second or (name, listing)
        reasons += [f"{path}: {reason}" for path, reason in listing.refused] if name in OWN_FORMATS else []
    if second:
        return _known(second[0], folder, second[1])
    found = "; ".join((holds(folder), *reasons[:1]))
    raise InputError(f"no labels that are read in {folder}: {found}; read are {', '.join(RAW_FORMATS)}: "
                     f"{OWN_WAY}")


def _known(name: str, folder: Path, listing: Listing) -> str:
    """The format itself, or the public set whose labels it has taken. Raises InputError where that set is not whole in
    the folder, or lies deeper in it.
    """
    if name not in _OF_ANY_POINTS:
        return name
    taken = {path for item in listing.items for path in item.annotations}
    homes = {home for path in taken if path.is_relative_to(folder) for home in path.relative_to(folder).parents}
    found: dict[Path, str] = {}
    for home in sorted(homes, key=lambda home: (len(home.parts), home)):
        if len(home.parts) <= DEEPEST and found.keys().isdisjoint(home.parents):
            found |= [(home, public) for public in _PUBLISHED if _holds(FORMATS[public], folder / home, taken)][:1]
    if not found:
        return name
    public = next(iter(found.values()))
    advice = f"or name the format, {name}:{folder}, if they are your own"
    if Path() not in found:
        raise InputError(f"the labels in {folder} are laid out as the set {public} in "
                         f"{', '.join(map(str, list(found)[:5]))}; give one folder of these, {advice}")
    try:
        find_items(FORMATS[public], folder, FORMATS[public].splits[0], labelled=True)
    except InputError as error:
        raise InputError(f"the labels are laid out as the set {public}, but {error}; {advice}") from None
    return public


def _holds(form: Format, place: Path, taken: set[Path]) -> bool:
    """True if one of these labels belongs to an image of any split of a format at a place."""
    for split in form.splits:
        with suppress(InputError, OSError):
            listing = find_items(form, place, split, labelled=True)
            if any(path in taken for item in listing.items for path in item.annotations):
                return True
    return False
