"""Replay: what a transition is, the server that keeps them, and the two doors to it.

Knows nothing of music, of MuJoCo or of the learning algorithm.
"""
