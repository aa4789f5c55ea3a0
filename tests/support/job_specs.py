"""Jobs for the tests of the compute package."""

from __future__ import annotations

from compute.spec import TEXT_TO_IMAGE, JobShape, JobSpec, Verification


def job_id(name: str) -> bytes:
    """Thirty-two bytes that print as something."""
    return name.encode().ljust(32, b".")


def job_spec(
    model: bytes,
    *,
    prompt: str = "a red circle",
    side: int = 64,
    steps: int = 4,
    guidance: int = 3000,
    seed: int = 7,
    negative: str = "",
    verification: Verification = Verification.TRACE,
) -> JobSpec:
    """A job with sensible values for all that a test does not care about."""
    shape = JobShape(TEXT_TO_IMAGE, model, side, side, steps, guidance > 1000, verification=verification)
    return JobSpec(shape, prompt, negative, guidance, seed, b"s" * 16)
