"""Opening: what a gateway checks before it calls a result delivered. Pure.

The key must be the seller's, open every sealed file to exactly what was committed, and what is inside must be a
result of this job; the Receipt must say what we know ourselves. Whatever fails is the seller's fault, with proof.
"""

from __future__ import annotations

from collections.abc import Sequence

from compute.picture import png_size
from compute.spec import DENOISED, Artifact, JobSpec
from market.jobwire import Award, Commitment, SealKey
from market.quote import Quote
from market.receipt import NotVerified, Receipt, check_signed
from market.sealing import WrongKey, open_all
from p2p.codec import decode_as
from p2p.envelope import Signed, open_from
from p2p.errors import PeerFault
from p2p.peer import PeerId


def unsealed(
    commitment: Signed, key: Signed, ciphers: Sequence[bytes], spec: JobSpec, seller: PeerId
) -> tuple[Artifact, ...]:
    """The files of a result. Raises PeerFault: WrongKey when they are not what was committed or asked."""
    bound = open_from(commitment, Commitment, seller)
    secret = open_from(key, SealKey, seller)
    plain = open_all(secret.key, bound, list(ciphers))
    files = tuple(Artifact(named.media_type, data) for named, data in zip(bound.artifacts, plain, strict=True))
    sides = (spec.shape.width, spec.shape.height)
    if spec.shape.pipeline in DENOISED and any(png_size(file.data) != sides for file in files):
        raise WrongKey("what is inside is no picture of this job")
    return files


def check_receipt(
    signed: Signed,
    files: Sequence[Artifact],
    award: Award,
    *,
    network: str,
    gateway: PeerId,
    seller: PeerId,
    price: int,
) -> Receipt:
    """The Receipt, every field that we know being as we know it. Raises PeerFault."""
    checked = check_signed(signed, [file.data for file in files], award.spec)
    if isinstance(checked, NotVerified):
        raise PeerFault("; ".join(found.text for found in checked.problems))
    inside = checked.receipt
    said = (inside.network, inside.settlement, inside.job_id, inside.attempt, inside.gateway, inside.orchestrator)
    known = (network, award.settlement, award.job_id, award.attempt, gateway, seller)
    quote = decode_as(Quote, award.quote.payload).digest
    if said != known or inside.quote != quote or inside.price != price:
        raise PeerFault("the Receipt is about something else")
    return inside
