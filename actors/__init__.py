"""Acting: songs, the environment, metrics, recording, the actor, its pool and the evaluator.

Knows nothing of runs and jobs.
"""

from actors import graphics as _graphics
from actors import light_imports as _light_imports

_graphics.settle()
_light_imports.settle()
