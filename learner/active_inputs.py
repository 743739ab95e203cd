"""What of an observation can ever be other than zero.

A piece uses a few of the 88 keys: most columns of its table of goals are zero in every row. Their
weights in the first layers add nothing and get no gradient, so that Adam never moves them. The
learner leaves these inputs out: the same mathematics with a quarter of the inputs. A checkpoint
has all weights again, so that its policy can play any piece.
"""

import functools
from typing import Any, cast

import jax
import numpy as np

from learner.networks import FIRST_KERNEL, Parameters
from learner.observation import ObservationLayout, active_goals
from learner.sac import TrainingState

_PARAMETERS = ("actor", "actor_ema", "critic", "target_critic")
_OPTIMIZED = {"actor": "actor_optimizer", "critic": "critic_optimizer"}
"""Of which there are moments, as vectors as long as all parameters; see `learner.sac`."""


class ActiveInputs:
    """The inputs that are left, and the way to them and back.

    Args:
        layout: of whole observations.
        table: (rows, features) uint8, see `learner.observation.assemble`.
    """

    def __init__(self, layout: ObservationLayout, table: np.ndarray):
        self.layout, self.table, features = active_goals(layout, table)
        of_a_frame = np.concatenate(
            [
                np.arange(layout.before),
                layout.before + features,
                layout.before + layout.features + np.arange(layout.after),
            ]
        )
        # Frames change fastest, see `assemble`.
        frames = np.arange(layout.frames)
        self._inputs = (of_a_frame[:, None] * layout.frames + frames).ravel()
        self._whole_dim = layout.observation_dim

    def prune(self, state: TrainingState) -> TrainingState:
        """The training state without the weights of inputs that are left out."""
        return state._replace(
            **{name: self._pruned(getattr(state, name)) for name in _PARAMETERS},
            **{
                optimizer: _take(getattr(state, optimizer), self._places(getattr(state, name)))
                for name, optimizer in _OPTIMIZED.items()
            },
        )

    def unprune(self, state: TrainingState, whole: TrainingState) -> TrainingState:
        """The whole training state, in NumPy arrays.

        Args:
            state: as `prune` made it, and as learning changed it since.
            whole: has the other weights, which learning leaves as they are.
        """
        active, before = jax.device_get((state, whole))
        kernels_of = {
            name: _map_first_kernels(
                lambda kernel, old: _put(kernel, old, self._rows(len(old))),
                getattr(active, name),
                getattr(before, name),
            )
            for name in _PARAMETERS
        }
        moments_of = {
            optimizer: jax.tree.map(
                functools.partial(_put, places=self._places(getattr(before, name))),
                getattr(active, optimizer),
                getattr(before, optimizer),
            )
            for name, optimizer in _OPTIMIZED.items()
        }
        return cast(TrainingState, active._replace(**kernels_of, **moments_of))

    def _pruned(self, parameters: Parameters) -> Parameters:
        return _map_first_kernels(lambda kernel: kernel[self._rows(len(kernel))], parameters)

    def _rows(self, inputs: int) -> np.ndarray:
        """Live rows of a first kernel; those of actions follow those of observations."""
        return np.concatenate([self._inputs, np.arange(self._whole_dim, inputs)])

    def _places(self, whole: Parameters) -> np.ndarray:
        """Where what is active stands in the vector of all parameters; moments are such vectors."""
        leaves, structure = jax.tree.flatten(whole)
        ends = np.cumsum([leaf.size for leaf in leaves])
        places = [
            np.arange(end - leaf.size, end).reshape(leaf.shape)
            for leaf, end in zip(leaves, ends, strict=True)
        ]
        active = self._pruned(jax.tree.unflatten(structure, places))
        return np.concatenate([part.ravel() for part in jax.tree.leaves(active)])


def _take(optimizer: Any, places: np.ndarray) -> Any:
    """The optimizer's state with those places of its moments; its count is left alone."""
    return jax.tree.map(lambda leaf: leaf[places] if leaf.ndim else leaf, optimizer)


def _put(active: np.ndarray, before: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A copy of `before` with what is active in its places; a count is what it is now."""
    if not active.ndim:
        return active
    whole = np.array(before)
    whole[places] = active
    return whole


def _map_first_kernels(change: Any, parameters: Parameters, *others: Parameters) -> Parameters:
    def of_leaf(path: Any, *leaves: Any) -> Any:
        return change(*leaves) if jax.tree_util.keystr(path).endswith(FIRST_KERNEL) else leaves[0]

    return jax.tree_util.tree_map_with_path(of_leaf, parameters, *others)
