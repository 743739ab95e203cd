"""Replay: what a transition is, the server that keeps them, its writers and its reader.

Knows nothing of music, of MuJoCo or of the learning algorithm.
"""
