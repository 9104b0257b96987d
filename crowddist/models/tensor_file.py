"""Files written by torch.save: reads tensors and plain values, never code, in no more memory than the file's size."""

from __future__ import annotations

import warnings
import zipfile
from typing import Any, BinaryIO

from crowddist.errors import InputError
from crowddist.storage.remnants import remnant


def read_tensors(stream: BinaryIO) -> Any:
    """The content of a file, on the CPU. `weights_only`: torch calls only classes of its own list.

    Raises:
        InputError, with the reason alone, if the file is of another kind, damaged, packed, or holds anything else.
    """
    import pickle

    import torch

    try:
        if zipfile.is_zipfile(stream):
            _require_plain(stream)
        stream.seek(0)
        what = remnant(stream.read(256))
        stream.seek(0)
        if what:
            raise InputError(what)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other programs' pickles
            return torch.load(stream, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError:  # torch's own message advises running the file
        raise InputError("it holds something else than tensors and plain values, which is never executed") from None
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(reason) from error


def are_weights(value: Any) -> bool:
    """True for a dict of tensors by their names, as networks are kept."""
    import torch

    return isinstance(value, dict) and all(isinstance(name, str) and isinstance(tensor, torch.Tensor)
                                           for name, tensor in value.items())


def _require_plain(stream: BinaryIO) -> None:
    """Torch writes archives unpacked; packed or overlapping entries would let a small file fill the memory. It does not
    compare their checksums.
    """
    num_bytes = stream.seek(0, 2)
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > num_bytes:
            raise InputError("its archive is packed, as torch.save never writes it")
        if damaged := archive.testzip():
            raise InputError(f"{damaged} in it is damaged; copy the file again")
