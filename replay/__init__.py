"""Replay: transitions, the server that carries them, its writers and its reader.

This package knows nothing of music, MuJoCo or the learning algorithm.
"""
