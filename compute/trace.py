"""The trace of a job: a Merkle tree over every latent of the denoising, so that any step can be checked alone.

Leaf k holds the latents after k steps (leaf 0 is the noise of the seed, the last leaf is what becomes the picture) and
the timestep that the model sees next. ``leaf = H(0x00, job id, k, timestep, dtype, raw)``, ``node = H(0x01, left,
right)``, H is SHA-256; fixed-width fields, numbers big-endian, latents little-endian as the device wrote them. The tree
splits at the largest power of two below the number of leaves, so no leaf is ever repeated. Knows no tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from compute.capability import Dtype
from compute.spec import MAX_STEPS
from p2p.codec import Hash, Range, Size

MAX_LEAVES = MAX_STEPS + 1
MAX_LEAF = 4 * 2**20  # bytes of raw latents
MAX_PATH = MAX_LEAVES.bit_length()
FINISHED = 2**32 - 1  # the timestep of the last leaf: no model evaluation follows


@dataclass(frozen=True, slots=True)
class TraceLeaf:
    """One opened leaf with its way to the root. It proves nothing before ``verify_leaf`` said so."""

    index: Annotated[int, Range(0, MAX_STEPS)]
    timestep: Annotated[int, Range(0, FINISHED)]
    dtype: Dtype
    raw: Annotated[bytes, Size(1, MAX_LEAF)]
    path: Annotated[tuple[Hash, ...], Size(0, MAX_PATH)]


def leaf_hash(job_id: bytes, index: int, timestep: int, dtype: Dtype, raw: bytes) -> bytes:
    """The hash of one leaf. Raises ValueError for fields out of their widths."""
    if len(job_id) != 32 or not 0 <= index < MAX_LEAVES or not 0 <= timestep <= FINISHED:
        raise ValueError("leaf fields out of bounds")
    name = dtype.value.encode()
    head = b"\x00" + job_id + index.to_bytes(4, "big") + timestep.to_bytes(4, "big") + bytes([len(name)]) + name
    digest = hashlib.sha256(head)
    digest.update(raw)
    return digest.digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes. Raises ValueError for none, or for more than a trace may have."""
    if not 1 <= len(leaves) <= MAX_LEAVES:
        raise ValueError(f"{len(leaves)} leaves")
    if len(leaves) == 1:
        return leaves[0]
    middle = _split(len(leaves))
    return _node(merkle_root(leaves[:middle]), merkle_root(leaves[middle:]))


def merkle_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The siblings from leaf ``index`` up to the root, lowest first. Raises ValueError for an index outside."""
    if not 0 <= index < len(leaves) <= MAX_LEAVES:
        raise ValueError(f"leaf {index} of {len(leaves)}")
    if len(leaves) == 1:
        return ()
    middle = _split(len(leaves))
    if index < middle:
        return (*merkle_path(leaves[:middle], index), merkle_root(leaves[middle:]))
    return (*merkle_path(leaves[middle:], index - middle), merkle_root(leaves[:middle]))


def verify_path(root: bytes, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bool:
    """Whether ``path`` leads from ``leaf`` at ``index`` of ``count`` leaves to ``root``. False for any bad input."""
    if not 0 <= index < count <= MAX_LEAVES:
        return False
    turns = _turns(index, count)
    if len(turns) != len(path):
        return False
    for sibling, is_left in zip(path, turns, strict=True):
        leaf = _node(leaf, sibling) if is_left else _node(sibling, leaf)
    return leaf == root


def verify_leaf(root: bytes, job_id: bytes, steps: int, leaf: TraceLeaf) -> bool:
    """Whether ``leaf`` is part of the committed trace of a job of ``steps`` steps."""
    if leaf.index > steps or (leaf.timestep == FINISHED) != (leaf.index == steps):
        return False
    hashed = leaf_hash(job_id, leaf.index, leaf.timestep, leaf.dtype, leaf.raw)
    return verify_path(root, hashed, leaf.index, steps + 1, leaf.path)


def draw_steps(receipt: bytes, challenge: bytes, steps: int, count: int) -> tuple[int, ...]:
    """Which steps to re-run: ``count`` distinct of ``steps``, from the receipt's digest and the checker's own 32 bytes.

    The seller committed before it saw ``challenge``, the checker cannot choose what it likes: both can repeat the draw.
    """
    if len(challenge) != 32 or not 1 <= steps <= MAX_STEPS:
        raise ValueError("bad draw")
    drawn: list[int] = []
    counter = 0
    while len(drawn) < min(count, steps):
        seed = hashlib.sha256(b"\x02" + receipt + challenge + counter.to_bytes(4, "big")).digest()
        step = int.from_bytes(seed, "big") % steps
        counter += 1
        if step not in drawn:
            drawn.append(step)
    return tuple(sorted(drawn))


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)


def _turns(index: int, count: int) -> list[bool]:
    """From the leaf up: whether the leaf's side is the left one."""
    turns = []
    while count > 1:
        middle = _split(count)
        turns.append(index < middle)
        index, count = (index, middle) if index < middle else (index - middle, count - middle)
    return turns[::-1]
