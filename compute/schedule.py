"""Schedules: the numbers of a sampler, from the scheduler file of a model folder, computed by diffusers itself.

A folder that names Euler or flow-match Euler is sampled so; every other one with DDIM on its own noise schedule, since
a sampler that remembers earlier steps cannot be checked. Shell: imports torch and diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from compute.samplers import Ddim, Euler, FlowEuler, Number, Prediction, Sampler
from p2p.errors import Misconfigured, Refused

_KEPT = 64  # samplers by number of steps


class Schedule:
    """The noise schedule of one model. Invariant: the same number of steps always gives the same numbers."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        """``name`` is the class that the folder asks for, ``config`` its settings.

        Raises Misconfigured for a schedule whose steps are no functions of latents and index.
        """
        scheduler, self._read = _KINDS.get(name, (DDIMScheduler, _ddim))
        _check(config, scheduler)
        fixed = {"clip_sample": False} if scheduler is DDIMScheduler else {}
        try:
            self._scheduler = scheduler.from_config(dict(config), **fixed)
        except (ValueError, TypeError, NotImplementedError, ImportError) as exc:
            raise Misconfigured(f"the model's schedule cannot be used: {exc}") from exc
        self._made: dict[int, Sampler] = {}

    @property
    def longest(self) -> int:
        """The most steps that there can be."""
        return int(self._scheduler.config.num_train_timesteps)

    def sampler(self, steps: int) -> Sampler:
        """The sampler of so many steps. Raises Refused where the schedule has no such number."""
        if steps not in self._made:
            if len(self._made) >= _KEPT:
                self._made.clear()
            self._made[steps] = self._make(steps)
        return self._made[steps]

    def _make(self, steps: int) -> Sampler:
        if steps > self.longest:
            raise Refused("TOO_MANY_STEPS", "more than the model was trained for", have=self.longest, need=steps)
        try:
            self._scheduler.set_timesteps(steps)
            made = self._read(self._scheduler, steps)
        except (ValueError, IndexError) as exc:
            raise Refused("STEPS_UNSERVED", str(exc)) from exc
        if len(made.timesteps) != steps:
            raise Refused("STEPS_UNSERVED", "the model's schedule has no such number of steps")
        return made


def _check(config: Mapping[str, Any], scheduler: type) -> None:
    unserved = [key for key in ("thresholding", "use_dynamic_shifting", "stochastic_sampling") if config.get(key)]
    if unserved:
        raise Misconfigured(f"the model's schedule asks for {', '.join(unserved)}, which is not served")
    told = config.get("prediction_type", Prediction.EPSILON.value)
    if scheduler is not FlowMatchEulerDiscreteScheduler and told not in set(Prediction):
        raise Misconfigured(f"the model's schedule predicts {str(told)[:32]}; served are {', '.join(Prediction)}")


def _ddim(scheduler: Any, steps: int) -> Ddim:
    times = scheduler.timesteps[:steps]
    before = times - scheduler.config.num_train_timesteps // steps
    shares, last = scheduler.alphas_cumprod, scheduler.final_alpha_cumprod
    share = shares[times]
    following = torch.where(before >= 0, shares[before.clamp(min=0)], last)
    return Ddim(
        Prediction(scheduler.config.prediction_type),
        tuple(times.tolist()),
        _numbers(share**0.5),
        _numbers((1 - share) ** 0.5),
        _numbers(following**0.5),
        _numbers((1 - following) ** 0.5),
    )


def _euler(scheduler: Any, steps: int) -> Euler:
    sigmas = scheduler.sigmas[: steps + 1]
    sigma = sigmas[:-1]
    return Euler(
        Prediction(scheduler.config.prediction_type),
        tuple(scheduler.timesteps.tolist()),
        _numbers(sigmas),
        _numbers((sigma**2 + 1) ** 0.5),
        _numbers(-sigma / (sigma**2 + 1) ** 0.5),
        _numbers(sigma**2 + 1),
        _numbers(sigmas[1:] - sigma),
        scheduler.init_noise_sigma,
    )


def _flow(scheduler: Any, steps: int) -> FlowEuler:
    sigmas = scheduler.sigmas[: steps + 1]
    return FlowEuler(tuple(scheduler.timesteps.tolist()), _numbers(sigmas[:-1]), _numbers(sigmas[1:] - sigmas[:-1]))


def _numbers(numbers: Any) -> tuple[Number, ...]:
    """Each as a tensor without dimensions, as diffusers calculates with."""
    return tuple(numbers.unbind())


_KINDS: dict[str, tuple[Any, Callable[[Any, int], Sampler]]] = {
    "EulerDiscreteScheduler": (EulerDiscreteScheduler, _euler),
    "FlowMatchEulerDiscreteScheduler": (FlowMatchEulerDiscreteScheduler, _flow),
}
