"""Learning: networks, SAC with DroQ critics, published parameters, checkpoints and the learner.

This package knows nothing of music or MuJoCo: observations and actions are vectors.
"""
