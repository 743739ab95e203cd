"""Variations: how renditions of one passage come to differ."""

import dataclasses
import math

import numpy as np

# On the example policy with its note-event F1 of 0.94, two of these give 0.89 in the mean.
STYLE_RANGES = {
    "amplitude": (0.85, 1.15),
    "smoothing": (-0.35, 0.35),
    "hold": (-0.5, 0.5),
    "lateness": (-0.25, 0.25),
}
"""What the style knobs are drawn from, by name, see `Variation.knobs`."""
_SIZE = (0.3, 0.6)
"""What the sizes of other lasting variations are drawn from, in deviations."""
_KINDS = {
    **dict.fromkeys(("amplitude", "smoothing", "hold", "delay"), "style"),
    "offset": "offset",
    "weights": "weights",
    "temperature": "sampling",
    "noise": "noise",
}


@dataclasses.dataclass(frozen=True)
class Variation:
    """How a rendition differs from the policy's deterministic play.

    "Deviation" stands for the policy's own standard deviation, before the tanh, at the
    observation at hand. `rlhf.varied_policy` says how the numbers become actions.
    """

    amplitude: float = 1.0
    """Factor on the mean action, before the tanh."""
    smoothing: float = 0.0
    """Share of the previous action that is mixed into each; a negative one sharpens. Below 1."""
    hold: float = 0.0
    """Control steps by which keys are held longer; negative ones release them earlier."""
    delay: float = 0.0
    """Control steps by which the goals come later; negative ones come earlier."""
    offset: float = 0.0
    """Size of the one offset drawn per rendition, in deviations."""
    weights: float = 0.0
    """Size of the one draw of last-layer weights per rendition: the standard deviation of the
    change of the mean, in deviations."""
    temperature: float = 0.0
    """Factor on the deviation with which each action is sampled, independently."""
    noise: float = 0.0
    """Standard deviation of independent Gaussian noise added to each action, after the tanh; the
    sum is clipped to [-1, 1]."""

    def __post_init__(self) -> None:
        """Refuses what cannot be played.

        Raises:
            ValueError: naming the field and its value.
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
        """The variation with these knobs, see `knobs`."""
        return cls(amplitude, smoothing, hold, delay=lateness - _lag(smoothing))

    @property
    def knobs(self) -> dict[str, float]:
        """The style knobs, by name: `amplitude`, `smoothing`, `hold` and `lateness`.

        The lateness is the number of control steps by which attacks come later: smoothing delays
        them, and the goals come earlier or later. At a lateness of 0, smoothing changes how keys
        are struck, but hardly when.
        """
        return {
            "amplitude": self.amplitude,
            "smoothing": self.smoothing,
            "hold": self.hold,
            "lateness": self.delay + _lag(self.smoothing),
        }

    @property
    def is_random(self) -> bool:
        """Whether two seeds give two renditions."""
        return any((self.offset, self.weights, self.temperature, self.noise))

    @property
    def is_of_style(self) -> bool:
        """Whether nothing but style knobs differs from deterministic play."""
        return all(_KINDS[name] == "style" for name in self._changed())

    @property
    def kind(self) -> str:
        """What varies, for people and for counting.

        One of "as played", "style", "offset", "weights", "sampling" and "noise", or several that
        are joined by " + ".
        """
        return " + ".join(dict.fromkeys(_KINDS[name] for name in self._changed())) or "as played"

    def describe(self) -> str:
        """One line for people: each number that differs from deterministic play."""
        return ", ".join(f"{name} {value:.2g}" for name, value in self._changed().items()) or (
            "as played"
        )

    def _changed(self) -> dict[str, float]:
        """The fields that are not at their defaults, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


def draw(kind: str, random: np.random.Generator) -> Variation:
    """A lasting variation, which keeps most notes right and can be heard.

    Args:
        kind: "style" draws two of the four style knobs, which together change less of the notes
            than all, each from the outer half of its range, where a difference can be heard;
            "offset", "weights" and "sampling" draw that size.
        random: what it is drawn from.
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
    """Control steps by which smoothing delays: the mean age of what it mixes."""
    return smoothing / (1 - smoothing)
