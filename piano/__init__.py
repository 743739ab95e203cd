"""Piano playing: songs, MuJoCo scene, task, environment, performances, metrics, recordings.

Knows nothing of Ray.
"""

from piano import graphics as _graphics
from piano import light_imports as _light_imports

_graphics.settle()
_light_imports.settle()
