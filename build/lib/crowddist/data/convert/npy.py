"""One's own labels as NumPy arrays: beside each image a file of its name, with x and y of each head in its rows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from crowddist.data.convert.annotations import as_points, read_file
from crowddist.data.convert.own import Labels, OtherFileError, of_one_image, own_format
from crowddist.errors import InputError


def read(place: Path) -> dict[str, Labels]:
    """The labels of the one image of a file. Unpickles nothing. Raises InputError, naming the file, for anything but an
    array of N x 2 or N x 3 numbers.
    """
    data = read_file(place)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # NumPy's parser of headers raises many kinds
        reason = " ".join(str(error).split())
        if "allow_pickle" in reason:
            reason = "it holds Python's objects, or is no NumPy file; save the numbers alone, as N x 2"
        raise InputError(f"{place}: not a NumPy array of numbers: {reason[:200]}") from None
    # Two rows of many are no map of an image's pixels either: `as_points` says what to do.
    if not isinstance(array, np.ndarray) or (array.size and (array.ndim != 2 or (array.shape[1] not in (2, 3)
                                                                                 and array.shape[0] != 2))):
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise OtherFileError(f"{place}: not points: N x 2 numbers are needed, got {got}")
    return of_one_image(place, as_points(array, place, "the array"))


FORMAT = own_format("npy", "images, and for each a NumPy array of its name, with x, y of a head in each row", (".npy",),
                    read)
