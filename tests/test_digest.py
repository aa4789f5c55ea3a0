"""Digests of artifacts are plain SHA-256, with size and media type bound beside them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compute.digest import digest_artifact, digest_bytes, digest_parts
from compute.spec import Artifact


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_parts_digest_like_the_whole(parts: list[bytes]) -> None:
    assert digest_parts(parts) == digest_bytes(b"".join(parts)) == hashlib.sha256(b"".join(parts)).digest()


def test_an_artifact_agrees_with_its_own_digest_only() -> None:
    artifact = Artifact("image/png", b"picture")
    named = digest_artifact(artifact)
    assert named.size == 7
    assert named.agrees(artifact)
    assert not named.agrees(replace(artifact, data=b"picturE"))
    assert not named.agrees(replace(artifact, media_type="image/webp"))
    assert not replace(named, size=8).agrees(artifact)
