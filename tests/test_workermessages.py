"""Golden bytes of what node and worker say: a worker that is still running must understand the next version's node."""

from __future__ import annotations

from typing import Any

import pytest

from compute import messages as m
from compute.capability import Capability, Dtype, ModelCapability
from compute.joinwire import WorkerDeclined, WorkerJoin, WorkerWelcome
from compute.spec import TEXT_TO_IMAGE
from compute.trace import TraceLeaf
from compute.tracestore import TraceIndex
from p2p.codec import decode, encode
from tests.support.job_specs import job_id, job_spec

JOB = job_id("job")
REQUEST = b"r" * 16
SPEC = job_spec(b"m" * 32)
ENTRY = ModelCapability(b"m" * 32, "tiny", TEXT_TO_IMAGE, 64, 256, 8, 1000, Dtype.FP32, 90_000, 700, True)
LEAF = TraceLeaf(1, 749, Dtype.FP32, b"raw!", (b"p" * 32,))
GOLDEN: list[tuple[Any, str]] = [
    (m.Attach(m.Channel.HEALTH), "93ad776f726b65722d61747461636801a66865616c7468"),
    (
        m.Ready(4711, "cpu", Capability(()), (JOB,)),
        (
            "96ac776f726b65722d726561647903cd1267a363707592900191c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"
            "2e2e2e2e2e2e2e2e2e2e2e2e"
        ),
    ),
    (
        m.ModelChanged(ENTRY),
        (
            "93b4776f726b65722d6d6f64656c2d6368616e676564029ec4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d"
            "6d6d6d6d6d6d6d6d6d6da474696e79ad746578742d746f2d696d61676540cd010008cd03e8a466703332ce00015f90cd"
            "02bcc3000000"
        ),
    ),
    (
        m.ModelFailed(b"m" * 32, "no weights"),
        (
            "94b3776f726b65722d6d6f64656c2d6661696c656401c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d"
            "6d6d6d6d6d6d6d6daa6e6f2077656967687473"
        ),
    ),
    (
        m.JobLoading(JOB, 9000),
        (
            "94ae776f726b65722d6c6f6164696e6701c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"
            "2e2e2e2ecd2328"
        ),
    ),
    (
        m.PinModel(b"m" * 32, True),
        ("94aa776f726b65722d70696e01c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6dc3"),
    ),
    (
        m.ModelShelved(b"m" * 32, "warm", 70_000, True),
        (
            "96ae776f726b65722d7368656c76656401c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d"
            "6d6d6d6da47761726dce00011170c3"
        ),
    ),
    (
        m.RunJob(JOB, SPEC),
        (
            "94aa776f726b65722d72756e02c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e98"
            "9aad746578742d746f2d696d616765c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d"
            "6d404004c3a56578616374a574726163650000ac612072656420636972636c65a0cd0bb807c410737373737373737373"
            "737373737373739090"
        ),
    ),
    (
        m.DueJob(JOB, 2500),
        ("94aa776f726b65722d64756501c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2ecd09c4"),
    ),
    (
        m.Calibrated(b"m" * 32, (100, 158, 209)),
        (
            "94b1776f726b65722d63616c6962726174656402c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d"
            "6d6d6d6d6d6d9364cc9eccd1"
        ),
    ),
    (
        m.CancelJob(JOB),
        ("93ad776f726b65722d63616e63656c01c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"),
    ),
    (
        m.JobStepped(JOB, 3, 20, 1500),
        ("96ab776f726b65722d7374657001c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e0314cd05dc"),
    ),
    (
        m.JobPreviewed(JOB, 3, b"webp"),
        (
            "95ae776f726b65722d7072657669657701c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"
            "2e2e2e03c40477656270"
        ),
    ),
    (
        m.JobDone(JOB, (m.ArtifactHead("image/png", 3),), b"t" * 32, Dtype.BF16, 700, 2500),
        (
            "99ab776f726b65722d646f6e6501c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"
            "9192a9696d6167652f706e6703c4207474747474747474747474747474747474747474747474747474747474747474a4"
            "62663136cd02bccd09c4c0"
        ),
    ),
    (
        m.ArtifactPart(JOB, 0, b"png"),
        (
            "95ab776f726b65722d7061727401c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"
            "00c403706e67"
        ),
    ),
    (
        m.JobFailed(JOB, "BROKEN_MODEL", "not finite", True),
        (
            "96ad776f726b65722d6661696c656401c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"
            "2e2eac42524f4b454e5f4d4f44454caa6e6f742066696e697465c3"
        ),
    ),
    (
        m.OpenTrace(REQUEST, JOB, (0, 7)),
        (
            "95b1776f726b65722d6f70656e2d747261636501c41072727272727272727272727272727272c4206a6f622e2e2e2e2e"
            "2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e920007"
        ),
    ),
    (
        m.LeafOpened(REQUEST, LEAF),
        (
            "94ab776f726b65722d6c65616601c410727272727272727272727272727272729501cd02eda466703332c40472617721"
            "91c4207070707070707070707070707070707070707070707070707070707070707070"
        ),
    ),
    (
        m.ReplayStep(REQUEST, SPEC, 1, Dtype.FP32, b"before", b"after"),
        (
            "98b2776f726b65722d7265706c61792d7374657002c41072727272727272727272727272727272989aad746578742d74"
            "6f2d696d616765c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d404004c3a56578"
            "616374a574726163650000ac612072656420636972636c65a0cd0bb807c4107373737373737373737373737373737390"
            "9001a466703332c4066265666f7265c4056166746572"
        ),
    ),
    (
        m.ReplayStart(REQUEST, SPEC, Dtype.FP16, b"noise", b"png"),
        (
            "97b3776f726b65722d7265706c61792d737461727403c41072727272727272727272727272727272989aad746578742d"
            "746f2d696d616765c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d404004c3a565"
            "78616374a574726163650000ac612072656420636972636c65a0cd0bb807c41073737373737373737373737373737373"
            "9090a466703136c4056e6f697365c403706e67"
        ),
    ),
    (
        m.ReplayPicture(REQUEST, SPEC, Dtype.FP32, b"latents", b"png"),
        (
            "97b5776f726b65722d7265706c61792d7069637475726502c41072727272727272727272727272727272989aad746578"
            "742d746f2d696d616765c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d404004c3"
            "a56578616374a574726163650000ac612072656420636972636c65a0cd0bb807c4107373737373737373737373737373"
            "73739090a466703332c4076c6174656e7473c403706e67"
        ),
    ),
    (
        m.Replayed(REQUEST, 12, 34),
        ("95af776f726b65722d7265706c6179656401c410727272727272727272727272727272720c22"),
    ),
    (
        m.RequestFailed(REQUEST, "NO_TRACE", "gone"),
        (
            "95b5776f726b65722d726571756573742d6661696c656401c41072727272727272727272727272727272a84e4f5f5452"
            "414345a4676f6e65"
        ),
    ),
    (m.Ping(7), "93ab776f726b65722d70696e670107"),
    (m.Pong(7, m.Phase.RUNNING, 120, 35, 2**30), "97ab776f726b65722d706f6e670207a772756e6e696e677823ce40000000"),
    (
        WorkerJoin("far", b"i" * 16, m.Channel.WORK, (b"m" * 32,), True),
        (
            "97ab776f726b65722d6a6f696e01a3666172c41069696969696969696969696969696969a4776f726b91c4206d6d6d6d"
            "6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6dc3"
        ),
    ),
    (
        WorkerWelcome((b"m" * 32,)),
        ("93ae776f726b65722d77656c636f6d650191c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d"),
    ),
    (WorkerDeclined("NO_MODEL", "tiny"), "94af776f726b65722d6465636c696e656401a84e4f5f4d4f44454ca474696e79"),
    (m.End(), "92aa776f726b65722d656e6401"),
    (
        TraceIndex(JOB, Dtype.FP32, 4, (749, 2**32 - 1), b"h" * 64),
        (
            "97ab74726163652d696e64657801c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"
            "a4667033320492cd02edceffffffffc44068686868686868686868686868686868686868686868686868686868686868"
            "686868686868686868686868686868686868686868686868686868686868686868"
        ),
    ),
    (
        m.InputPart(JOB, 1, b"data"),
        (
            "95ac776f726b65722d696e70757401c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e"
            "2e01c40464617461"
        ),
    ),
    (
        m.Calibrated(b"m" * 32, (100, 158, 209)),
        (
            "94b1776f726b65722d63616c6962726174656402c4206d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d"
            "6d6d6d6d6d6d9364cc9eccd1"
        ),
    ),
    (
        m.DueJob(JOB, 1500),
        ("94aa776f726b65722d64756501c4206a6f622e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2ecd05dc"),
    ),
]


@pytest.mark.parametrize(("message", "wire"), GOLDEN, ids=lambda value: type(value).__name__)
def test_every_message_has_its_bytes(message: Any, wire: str) -> None:
    assert encode(message).hex() == wire
    assert decode(bytes.fromhex(wire)) == message


def test_no_message_of_the_line_is_missing() -> None:
    here = {cls for name, cls in vars(m).items() if isinstance(cls, type) and cls.__module__ == m.__name__}
    plain = {m.Channel, m.Phase, m.ArtifactHead}
    assert here - plain <= {type(message) for message, _ in GOLDEN}


def test_the_largest_frame_holds_two_leaves() -> None:
    whole = bytes(m.MAX_LEAF)
    assert len(encode(m.ReplayStep(REQUEST, SPEC, 0, Dtype.FP32, whole, whole))) < m.LINK_LIMIT
