"""One's own labels as MATLAB files, one an image, as the public sets have them (annPoints, image_info) or alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crowddist.data.convert.annotations import as_points, read_mat_info, read_mat_names, read_mat_value
from crowddist.data.convert.own import Labels, OtherFileError, of_one_image, own_format
from crowddist.errors import InputError

# Names of points in the public sets, and others that say what they are.
_POINTS = ("annpoints", "points", "location", "locations", "point_position", "heads", "gt")


def read(place: Path) -> dict[str, Labels]:
    """The labels of the one image of a file: `image_info` as ShanghaiTech has it, or else the variable of N x 2 or
    N x 3 numbers. Raises InputError, naming the file, where there is none or several.
    """
    names = read_mat_names(place)
    if "image_info" in names:
        return of_one_image(place, *read_mat_info(place))
    tables = {name: value for name in names if _is_table(value := read_mat_value(place, name))}
    tables = {name: tables[name] for name in tables if name.lower() in _POINTS} or tables
    if not tables:
        raise OtherFileError(f"{place}: no variable of N x 2 numbers; it holds {', '.join(names[:8]) or 'none'}")
    if len(tables) > 1:
        raise InputError(f"{place}: {', '.join(tables)} may each be the points; call these annPoints")
    ((name, value),) = tables.items()
    return of_one_image(place, as_points(value, place, name))


def _is_table(value: object) -> bool:
    return (isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.ndim == 2
            and (value.size == 0 or value.shape[1] in (2, 3)))


FORMAT = own_format("mat", "images, and for each a MATLAB file of its name (or GT_NAME, NAME_ann), with x, y of a head "
                    "in each row of a variable", (".mat",), read)
