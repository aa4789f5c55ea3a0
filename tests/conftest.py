"""Fixtures that every test file may use."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("pasar", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pasar")
