"""The header of a safetensors file, checked against its size before any library maps the file.

    8 bytes        length of the header, little-endian
    the header     JSON: name -> dtype, shape, [begin, end) in the data; beside it ``__metadata__``, strings
    the data       every byte belongs to exactly one tensor

Pure: ``compute/strictfolder.py`` reads the bytes. Knows no library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from compute.flaws import BadModel, Flaw
from compute.strictjson import parse_object

PREFIX = 8
MAX_HEADER = 8 * 2**20  # a model of 50 000 tensors needs six
MAX_TENSORS = 1 << 17
MAX_DIMENSIONS = 16
MAX_DIMENSION = 2**48
_DEPTH = 4
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
}


def header_length(prefix: bytes, size: int, name: str) -> int:
    """How long the header is, from the first bytes of a file of ``size`` bytes. Raises BadModel."""
    if len(prefix) < PREFIX or size < PREFIX + 2:
        raise BadModel(Flaw.BAD_HEADER, f"{name} is too short for a safetensors file")
    length = int.from_bytes(prefix[:PREFIX], "little")
    if length > MAX_HEADER:
        raise BadModel(Flaw.TOO_LARGE, f"{name} says that its header has {length} bytes; at most {MAX_HEADER} are read")
    if length > size - PREFIX:
        raise BadModel(Flaw.BAD_HEADER, f"{name} says that its header has {length} bytes, and has {size} in all")
    return length


def check_header(header: bytes, size: int, name: str) -> int:
    """How many numbers a file of ``size`` bytes with this header holds. Raises BadModel."""
    if not header.startswith(b"{"):
        raise BadModel(Flaw.BAD_HEADER, f"{name} has no safetensors header")
    tensors = parse_object(header, f"the header of {name}", _DEPTH)
    _check_metadata(tensors.pop("__metadata__", {}), name)
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise BadModel(Flaw.TOO_MANY, f"{name} has {len(tensors)} tensors; 1 to {MAX_TENSORS} are read")
    numbers, places = 0, []
    for told in tensors.values():
        count, begin, end = _tensor(told, name)
        numbers += count
        places.append((begin, end))
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise BadModel(Flaw.BAD_TENSOR, f"{name}: tensors overlap or leave a hole at byte {min(begin, reached)}")
        reached = end
    if reached != size - PREFIX - len(header):
        raise BadModel(Flaw.BAD_TENSOR, f"{name}: tensors of {reached} bytes in {size - PREFIX - len(header)}")
    return numbers


def _tensor(told: Any, name: str) -> tuple[int, int, int]:
    """Numbers, begin, end of one tensor."""
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise BadModel(Flaw.BAD_TENSOR, f"{name}: a tensor is dtype, shape and data_offsets")
    bits, shape, offsets = BITS.get(str(told["dtype"])), told["shape"], told["data_offsets"]
    if bits is None:
        raise BadModel(Flaw.BAD_TENSOR, f"{name}: numbers of the type {str(told['dtype'])[:32]} are not read")
    if not _whole(shape, MAX_DIMENSIONS) or not _whole(offsets, 2) or len(offsets) != 2:
        raise BadModel(Flaw.BAD_TENSOR, f"{name}: a shape or an offset out of bounds")
    count = math.prod(shape)
    if offsets[1] - offsets[0] != count * bits // 8:
        raise BadModel(Flaw.BAD_TENSOR, f"{name}: a tensor of {count} numbers in {offsets[1] - offsets[0]} bytes")
    return count, offsets[0], offsets[1]


def _whole(values: Any, most: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(value) is int and 0 <= value <= MAX_DIMENSION for value in values)
    )


def _check_metadata(told: Any, name: str) -> None:
    if not isinstance(told, Mapping) or not all(isinstance(value, str) for value in told.values()):
        raise BadModel(Flaw.BAD_HEADER, f"{name}: its metadata are not texts")
