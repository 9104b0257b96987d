"""One's own labels as MATLAB files, one an image, as the public sets have them (annPoints, image_info) or alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert.annotations import (
    NOT_READ,
    as_points,
    is_turned,
    read_mat_count,
    read_mat_info,
    read_mat_names,
    read_mat_value,
)
from crowddist.data.convert.own import Labels, OtherFileError, of_one_image, own_format
from crowddist.errors import InputError
from crowddist.process.safe_text import readable

# Names of points in the public sets, and others that say what they are.
_POINTS = ("annpoints", "points", "location", "locations", "point_position", "heads", "gt")
_COUNTS = ("count", "number", "num", "num_points", "point_num", "human_num")


def read(place: Path) -> dict[str, Labels]:
    """The labels of the one image of a file: `image_info` as ShanghaiTech has it, or else the variable, or part of a
    structure, of N x 2 or N x 3 numbers. Raises InputError, naming the file, where there is none or several.
    """
    names = read_mat_names(place)
    if "image_info" in names:
        return of_one_image(place, *read_mat_info(place))
    values = {name: read_mat_value(place, name) for name in names}
    parts = [part for name, value in values.items() for part in _parts(name, value)]
    tables = {name: value for name, value in parts if value.size == 0 or value.shape[1] in (2, 3)}
    tables = {name: tables[name] for name in tables if name.lower().rpartition(".")[2] in _POINTS} or tables
    if not tables:
        held = [f"{name} of {' x '.join(map(str, value.shape))}" for name, value in parts]
        held += [f"{name}, {NOT_READ}" for name, value in values.items() if value is None or np.iscomplexobj(value)]
        turned = "; its rows seem to be the columns, transpose it" if any(is_turned(part) for _, part in parts) else ""
        raise OtherFileError(f"{place}: no variable of N x 2 numbers; it holds "
                             f"{readable(', '.join((held or names)[:8])) or 'none'}{turned}")
    if len(tables) > 1:
        raise InputError(f"{place}: {readable(', '.join(tables))} may each be the points; call these annPoints")
    ((name, value),) = tables.items()
    count = next((read_mat_count(place, each) for each in names if each.lower() in _COUNTS and each != name), None)
    return of_one_image(place, as_points(value, place, readable(name)), count)


def _parts(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of numbers in two dimensions, in structures and cells of one too, by their names."""
    if isinstance(value, dict):
        for field, held in value.items():
            yield from _parts(f"{name}.{field}", held)
    elif isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        yield from _parts(name, value[0])
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.ndim == 2:
        yield name, value


FORMAT = own_format("mat", "images, and for each a MATLAB file of its name (or GT_NAME, NAME_ann), with x, y of a head "
                    "in each row of a variable", (".mat",), read)
