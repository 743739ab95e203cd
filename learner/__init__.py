"""Learning: networks, SAC with DroQ critics, parameters out, checkpoints, the learner.

Knows nothing of music or MuJoCo: observations and actions are vectors.
"""
