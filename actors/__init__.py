"""Acting: songs, the environment, metrics, recording, the actor, its pool and the evaluator.

Knows nothing of runs and jobs.
"""

from actors import graphics as _graphics

_graphics.settle()
