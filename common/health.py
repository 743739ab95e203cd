"""The error of a learner step that has gone wrong, which can be caught without JAX."""

import numpy as np


class UnhealthyStep(RuntimeError):
    """The numbers of a learner step are not finite, or its policy has collapsed.

    Args:
        step: Number of the learner step.
        metrics: Metrics of the learner step.
        batch: Batches that the updates took, (updates, batch, 2, packed size) float32; see
            `replay.packing`.
    """

    def __init__(self, step: int, metrics: dict[str, float], batch: np.ndarray):
        super().__init__(step, metrics, batch)
        self.step = step
        self.metrics = metrics
        self.batch = batch

    def __str__(self) -> str:
        """Returns a line that says what has gone wrong."""
        bad = [name for name, value in self.metrics.items() if not np.isfinite(value)]
        if bad:
            return f"learner step {self.step}: {', '.join(bad)} not finite"
        entropy = self.metrics["entropy"]
        return f"learner step {self.step}: the policy has collapsed: entropy {entropy:.0f} nats"
