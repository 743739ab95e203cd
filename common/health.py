"""The error of a learner step whose numbers have gone bad. It can be caught without JAX."""

import numpy as np


class UnhealthyStep(RuntimeError):
    """A learner step whose numbers have gone bad.

    Args:
        step: the learner step.
        metrics: of it.
        batch: that it took, (updates, batch, 2, packed size) float32, see `replay.packing`.
    """

    def __init__(self, step: int, metrics: dict[str, float], batch: np.ndarray):
        super().__init__(step, metrics, batch)
        self.step = step
        self.metrics = metrics
        self.batch = batch

    def __str__(self) -> str:
        """What has gone bad."""
        bad = [name for name, value in self.metrics.items() if not np.isfinite(value)]
        if bad:
            return f"learner step {self.step}: {', '.join(bad)} not finite"
        entropy = self.metrics["entropy"]
        return f"learner step {self.step}: the policy has collapsed: entropy {entropy:.0f} nats"
