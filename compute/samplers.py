"""Samplers: from the latents before a step and what the model told to the latents after it, for one sample.

A sampler holds the numbers of one schedule of so many steps and has no memory: a step is a function of latents and
index, so that a batch may hold samples at different steps, and anybody can run one step again. The operations and
their order are those of diffusers' schedulers of the same names, so that the results are equal to the last bit.

Pure: latents and the numbers of the schedule are opaque, only arithmetic is asked of them. Where the numbers come from
is ``compute/schedule.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

Number: TypeAlias = Any  # what diffusers has it as: in half precision a plain float would round otherwise


class Prediction(StrEnum):
    """What a model tells: the noise in its input, or the velocity between noise and picture."""

    EPSILON = "epsilon"
    V = "v_prediction"


class Sampler(Protocol):
    """One schedule. ``timesteps`` are what the model is told about its input at each step."""

    @property
    def timesteps(self) -> tuple[float, ...]: ...

    @property
    def first_scale(self) -> Number:
        """How large the first noise is."""
        ...

    def shown(self, latents: Any, index: int) -> Any:
        """What the model sees at step ``index``."""
        ...

    def after(self, latents: Any, told: Any, index: int) -> Any:
        """The latents after step ``index``."""
        ...

    def noised(self, picture: Any, noise: Any, index: int) -> Any:
        """The latents of a picture that is there already, as they would be before step ``index``."""
        ...

    def picture(self, before: Any, after: Any, index: int) -> Any:
        """The latents of the picture that the model saw in ``before``, from what step ``index`` made of them.

        For a glimpse: what was rounded away in the step is missing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ddim:
    """DDIM without added noise. ``signal`` and ``noise``: roots of the two shares before each step, and after it."""

    prediction: Prediction
    timesteps: tuple[float, ...]
    signal: tuple[Number, ...]
    noise: tuple[Number, ...]
    next_signal: tuple[Number, ...]
    next_noise: tuple[Number, ...]
    first_scale: Number = 1.0

    def shown(self, latents: Any, index: int) -> Any:
        """The latents as they are."""
        return latents

    def after(self, latents: Any, told: Any, index: int) -> Any:
        """Toward the picture that the model sees in the latents, with less of the same noise."""
        signal, noise = self.signal[index], self.noise[index]
        if self.prediction is Prediction.EPSILON:
            picture = (latents - noise * told) / signal
            epsilon = told
        else:
            picture = signal * latents - noise * told
            epsilon = signal * told + noise * latents
        direction = self.next_noise[index] * epsilon
        return self.next_signal[index] * picture + direction

    def noised(self, picture: Any, noise: Any, index: int) -> Any:
        """Both shares of the schedule, as ``add_noise`` has them."""
        return self.signal[index] * picture + self.noise[index] * noise

    def picture(self, before: Any, after: Any, index: int) -> Any:
        """Both sides of a step hold the same picture and the same noise in two mixtures: the noise is taken out."""
        noise, following = self.noise[index], self.next_noise[index]
        share = noise * self.next_signal[index] - following * self.signal[index]
        return (noise * after - following * before) / share


@dataclass(frozen=True, slots=True)
class Euler:
    """Euler steps along sigma, without churn. ``sigmas`` has one more than ``timesteps``: where the last step ends.

    ``shrink``, ``tilt``, ``spread``: what input, told and latents are divided or multiplied by at each step.
    ``step``: the differences of neighbouring sigmas.
    """

    prediction: Prediction
    timesteps: tuple[float, ...]
    sigmas: tuple[Number, ...]
    shrink: tuple[Number, ...]
    tilt: tuple[Number, ...]
    spread: tuple[Number, ...]
    step: tuple[Number, ...]
    first_scale: Number

    def shown(self, latents: Any, index: int) -> Any:
        """The latents at the size that the model was trained on."""
        return latents / self.shrink[index]

    def after(self, latents: Any, told: Any, index: int) -> Any:
        """Along the slope at this sigma; in single precision, as the differences are small."""
        whole, sigma = latents.float(), self.sigmas[index]
        if self.prediction is Prediction.EPSILON:
            picture = whole - sigma * told
        else:
            picture = told * self.tilt[index] + (whole / self.spread[index])
        slope = (whole - picture) / sigma
        return (whole + slope * self.step[index]).to(told.dtype)

    def noised(self, picture: Any, noise: Any, index: int) -> Any:
        """The picture under noise of this sigma."""
        return picture + noise * self.sigmas[index]

    def picture(self, before: Any, after: Any, index: int) -> Any:
        """Where the slope leads: to sigma zero."""
        return before - (after - before) * (self.sigmas[index] / self.step[index])


@dataclass(frozen=True, slots=True)
class FlowEuler:
    """Euler steps of flow matching: the model tells the velocity itself. ``sigmas``: shares of noise."""

    timesteps: tuple[float, ...]
    sigmas: tuple[Number, ...]
    step: tuple[Number, ...]
    first_scale: Number = 1.0

    def shown(self, latents: Any, index: int) -> Any:
        """The latents as they are."""
        return latents

    def after(self, latents: Any, told: Any, index: int) -> Any:
        """Along the velocity; in single precision."""
        return (latents.float() + self.step[index] * told).to(told.dtype)

    def noised(self, picture: Any, noise: Any, index: int) -> Any:
        """On the straight line between the two."""
        return self.sigmas[index] * noise + (1.0 - self.sigmas[index]) * picture

    def picture(self, before: Any, after: Any, index: int) -> Any:
        """Where the velocity leads: to sigma zero."""
        return before - (after - before) * (self.sigmas[index] / self.step[index])


@dataclass(frozen=True, slots=True)
class Tail:
    """The last steps of a schedule: what is drawn over a picture leaves the first ``skipped`` out."""

    whole: Sampler
    skipped: int

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Those of the steps that are left."""
        return self.whole.timesteps[self.skipped :]

    @property
    def first_scale(self) -> Number:
        """How large the first noise of the whole schedule is."""
        return self.whole.first_scale

    def shown(self, latents: Any, index: int) -> Any:
        """What the model sees at step ``index`` of those that are left."""
        return self.whole.shown(latents, index + self.skipped)

    def after(self, latents: Any, told: Any, index: int) -> Any:
        """The latents after it."""
        return self.whole.after(latents, told, index + self.skipped)

    def noised(self, picture: Any, noise: Any, index: int) -> Any:
        """A picture as it would be before it."""
        return self.whole.noised(picture, noise, index + self.skipped)

    def picture(self, before: Any, after: Any, index: int) -> Any:
        """What the model saw there."""
        return self.whole.picture(before, after, index + self.skipped)
