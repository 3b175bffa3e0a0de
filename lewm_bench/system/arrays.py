"""Reading .npy files, apart from what the command line reads before it knows that it needs numpy."""

from __future__ import annotations

import ast
import math
import os
from pathlib import Path

import numpy as np

from lewm_bench.core.errors import UserError, short_repr
from lewm_bench.core.reading import reason_of, require_file

HEADER = 2**16  # bytes of the longest header of a .npy file of version 1
NUMBERS = {np.dtype(name).str: name for name in ("uint8", "int32", "int64", "float16", "float32", "float64")}
MAGIC = b"\x93NUMPY\x01\x00"


def read_array(path: Path, dtype: type, dimensions: int, mend: str) -> np.ndarray:
    """A read-only map of a .npy file of this type and number of dimensions, in C order.

    Raises:
        UserError: what ``require_file`` does, and for a file that is anything else, to the last byte.
    """
    require_file(path, mend)
    try:
        with Path(path).open("rb") as file:
            offset, shape = _array_header(file.read(HEADER + len(MAGIC) + 2), np.dtype(dtype), dimensions)
        size, expected = os.path.getsize(path), offset + math.prod(shape) * np.dtype(dtype).itemsize
        if size != expected:
            raise ValueError(f"it has {size} bytes instead of {expected}")
        if not math.prod(shape):
            return np.empty(shape, dtype)
        # A plain array: indexing the subclass is slower.
        return np.memmap(path, dtype, "r", offset, shape).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}); {mend}")


def _array_header(data: bytes, dtype: np.dtype, dimensions: int) -> tuple[int, tuple[int, ...]]:
    """Where the numbers of a .npy file begin, and their shape.

    Raises:
        ValueError: it is no header, or one of other numbers.
    """
    begin = len(MAGIC) + 2
    if len(data) < begin or not data.startswith(MAGIC):
        raise ValueError("it is not a .npy file of version 1.0")
    end = begin + int.from_bytes(data[begin - 2 : begin], "little")
    if len(data) < end:
        raise ValueError("it is cut short")
    try:
        header = ast.literal_eval(data[begin:end].decode("latin-1").strip())
        description, order, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise ValueError("its header cannot be read")
    whole = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**48 for n in shape)
    description = description if isinstance(description, str) else short_repr(description)
    if description != dtype.str or order is not False or not whole or len(shape) != dimensions:
        found = f"{NUMBERS.get(description, description)}{' in Fortran order' if order else ''} of shape {short_repr(shape)}"
        raise ValueError(f"it holds {found} instead of {dtype} with {dimensions} dimensions")
    return end, shape
