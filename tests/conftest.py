"""For all tests."""

import actors  # noqa: F401 - settles which OpenGL is used, before MuJoCo is imported.
