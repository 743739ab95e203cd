"""Piano playing: songs, MuJoCo scene, task, environment, performances, metrics, recordings.

The package does not depend on Ray.
"""

from piano import graphics as _graphics
from piano import lazy_imports as _lazy_imports

_graphics.configure_opengl()
_lazy_imports.install()
