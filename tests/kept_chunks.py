"""A writer for tests that look at what an environment writes."""

from replay.writer import ChunkWriter


class Kept(ChunkWriter):
    """Keeps the chunks."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def _send(self, seconds, everything):
        del seconds, everything
        self.kept += self._chunks
        self._chunks.clear()
        return True
