"""Variations: the differences between renditions of one passage."""

import dataclasses
import math

import numpy as np

# Two of these reduce the mean note-event F1 of the example policy from 0.94 to 0.89.
STYLE_RANGES = {
    "amplitude": (0.85, 1.15),
    "smoothing": (-0.35, 0.35),
    "hold": (-0.5, 0.5),
    "lateness": (-0.25, 0.25),
}
"""Ranges that the style knobs are drawn from, by name; see `Variation.knobs`."""
_SIZE = (0.3, 0.6)
"""Range that the sizes of other lasting variations are drawn from, in deviations."""
_KINDS = {
    **dict.fromkeys(("amplitude", "smoothing", "hold", "delay"), "style"),
    "offset": "offset",
    "weights": "weights",
    "temperature": "sampling",
    "noise": "noise",
}


@dataclasses.dataclass(frozen=True)
class Variation:
    """Difference of a rendition from the policy's deterministic play.

    "Deviation" means the policy's own standard deviation, before the tanh, at the current
    observation. `rlhf.varied_policy` turns the numbers into actions.
    """

    amplitude: float = 1.0
    """Factor on the mean action, before the tanh."""
    smoothing: float = 0.0
    """Share of the previous action that is mixed into each action, -1 to below 1; a negative share
    sharpens."""
    hold: float = 0.0
    """Number of control steps by which keys are held longer; negative releases keys earlier."""
    delay: float = 0.0
    """Number of control steps by which goals come later; negative makes goals come earlier."""
    offset: float = 0.0
    """Size, in deviations, of the offset that is drawn once per rendition."""
    weights: float = 0.0
    """Size of the change of last-layer weights that is drawn once per rendition: the standard
    deviation of the change of the mean, in deviations."""
    temperature: float = 0.0
    """Factor on the deviation with which each action is sampled independently."""
    noise: float = 0.0
    """Standard deviation of independent Gaussian noise added to each action, after the tanh; the
    sum is clipped to [-1, 1]."""

    def __post_init__(self) -> None:
        """Rejects values that cannot be played.

        Raises:
            ValueError: A value is out of range; the message names the field and its value.
        """
        for name, value in dataclasses.asdict(self).items():
            least = {"smoothing": -1.0, "hold": -math.inf, "delay": -math.inf}.get(name, 0.0)
            most = 1.0 if name == "smoothing" else math.inf
            if not (math.isfinite(value) and least <= value < most):
                raise ValueError(f"{name} is {value}")

    @classmethod
    def in_style(
        cls, amplitude: float, smoothing: float, hold: float, lateness: float
    ) -> "Variation":
        """Returns the variation with these knobs, see `knobs`."""
        return cls(amplitude, smoothing, hold, delay=lateness - _lag(smoothing))

    @property
    def knobs(self) -> dict[str, float]:
        """The style knobs, by name: `amplitude`, `smoothing`, `hold` and `lateness`.

        The lateness is the number of control steps by which attacks come later. It is the sum of
        the delay that smoothing causes and of the delay of the goals. At a lateness of 0,
        smoothing changes the way keys are struck, but hardly their timing.
        """
        return {
            "amplitude": self.amplitude,
            "smoothing": self.smoothing,
            "hold": self.hold,
            "lateness": self.delay + _lag(self.smoothing),
        }

    @property
    def is_random(self) -> bool:
        """Whether different seeds give different renditions."""
        return any((self.offset, self.weights, self.temperature, self.noise))

    @property
    def is_of_style(self) -> bool:
        """Whether only style knobs differ from deterministic play."""
        return all(_KINDS[name] == "style" for name in self._changed())

    @property
    def kind(self) -> str:
        """The kind of variation.

        It is one of "as played", "style", "offset", "weights", "sampling" and "noise", or several
        of them joined by " + ".
        """
        return " + ".join(dict.fromkeys(_KINDS[name] for name in self._changed())) or "as played"

    def describe(self) -> str:
        """Returns one readable line: each number that differs from deterministic play."""
        return ", ".join(f"{name} {value:.2g}" for name, value in self._changed().items()) or (
            "as played"
        )

    def _changed(self) -> dict[str, float]:
        """Returns the fields that differ from their defaults, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


def draw(kind: str, random: np.random.Generator) -> Variation:
    """Draws a lasting variation that is audible and keeps most notes right.

    Args:
        kind: Kind of variation. "style" draws two of the four style knobs, because two cost fewer
            notes than all four. Each knob comes from the outer half of its range, where the
            difference is audible. "offset", "weights" and "sampling" draw the size of that kind.
        random: Random number generator.
    """
    if kind == "style":
        names = map(str, random.choice(list(STYLE_RANGES), 2, replace=False))
        drawn = {name: _draw_clear(*STYLE_RANGES[name], random) for name in names}
        return Variation.in_style(**Variation().knobs | drawn)
    name = {"sampling": "temperature"}.get(kind, kind)
    return Variation(**{name: random.uniform(*_SIZE)})


def _draw_clear(least: float, most: float, random: np.random.Generator) -> float:
    """Draws from the outer half of a range."""
    middle = (least + most) / 2
    return float(middle + random.choice([-1, 1]) * random.uniform(0.5, 1) * (most - middle))


def _lag(smoothing: float) -> float:
    """Returns the delay by smoothing in control steps: the mean age of the mixed actions."""
    return smoothing / (1 - smoothing)
