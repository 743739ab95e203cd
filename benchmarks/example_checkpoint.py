"""Makes of a run what the repository shows of it: a run's folder, with what plays and no more.

python -m benchmarks.example_checkpoint runs/evidence/ours-1 example_checkpoints/twinkle
"""

import pathlib
import shutil
import sys

from cluster.run import RunFolder
from learner import checkpoint
from replay.errors import require
from replay.files import PackedFolder

_CHECKPOINTS = 3
_LEFT_OUT = ("video.mp4",)


def make(run: RunFolder, target: RunFolder) -> None:
    """Copies settings, songs, curves, snapshots of some checkpoints and the last evaluation.

    Args:
        run: that has ended.
        target: there must be nothing yet.

    Raises:
        BadInput: the run has no checkpoint, or one is damaged.
        OSError: the folder is there, or a file is not.
    """
    kept = checkpoint.list_checkpoints(run.checkpoints)
    require(bool(kept), f"the run {run.path} has no checkpoint")
    target.path.mkdir(parents=True)
    for name in ("config.json", "songs.json", "logbook.jsonl"):
        shutil.copy(run.path / name, target.path)
    apart = max(1, (len(kept) - 1) // (_CHECKPOINTS - 1))
    for path in kept[::-1][::apart][:_CHECKPOINTS]:
        checkpoint.snapshot(PackedFolder.pack(path)).write(target.checkpoints)
    name = kept[-1].name
    shutil.copytree(
        run.evaluations / name,
        target.evaluations / name,
        ignore=shutil.ignore_patterns(*_LEFT_OUT),
    )


if __name__ == "__main__":
    make(*(RunFolder(pathlib.Path(path)) for path in sys.argv[1:]))
