"""The child that encodes a clip while its next frames are made: H.264 as an MP4 file. Started by ``filming.py`` only.

Raw frames come in shared memory, one of a few slots each; on standard input the number of a slot that is full, on
standard output the number of one that may be filled again, and at the end the file. It trusts its parent.
"""

from __future__ import annotations

import mmap
import resource
import struct
import sys

import numpy as np

from compute.pipelines.h264 import Film

SLOTS = 4
END = 255  # in place of a slot's number: no frame comes any more
LENGTH = struct.Struct(">Q")
MEMORY = 2 << 30  # address space
_LIMITS = ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0))


def main() -> None:
    """Encode until told that it was all, or until standard input ends."""
    descriptor, width, height, fps, crf = (int(word) for word in sys.argv[1:])
    size = width * height * 3
    memory = mmap.mmap(descriptor, SLOTS * size, access=mmap.ACCESS_READ)
    for limit, value in _LIMITS:
        resource.setrlimit(limit, (value, value))
    film, source, to = Film(fps, crf), sys.stdin.buffer, sys.stdout.buffer
    while told := source.read(1):
        if told[0] == END:
            data = film.finish()
            to.write(LENGTH.pack(len(data)) + data)
            to.flush()
            return
        film.add(np.frombuffer(memory, np.uint8, size, told[0] * size).reshape(height, width, 3))
        to.write(told)
        to.flush()


if __name__ == "__main__":
    main()
