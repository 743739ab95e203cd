"""Leaves out the inputs of the networks that are always zero.

A piece uses a few of the 88 keys, so most columns of its table of goals are zero in every row. The
weights of these inputs in the first layers add nothing and get no gradient, so Adam never moves
them. The learner leaves these inputs out and does the same mathematics with a quarter of the
inputs. A checkpoint has all weights again, so its policy can play any piece.
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
"""Optimizers of these networks. Their moments are vectors as long as all parameters; see
`learner.sac`."""


class ActiveInputs:
    """The active inputs, and the conversion of training states to these inputs and back.

    Args:
        layout: Layout of whole observations.
        table: Table of goals, (rows, features) uint8; see `learner.observation.assemble`.
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
        # Frames change fastest; see `assemble`.
        frames = np.arange(layout.frames)
        self._inputs = (of_a_frame[:, None] * layout.frames + frames).ravel()
        self._whole_dim = layout.observation_dim

    def prune(self, state: TrainingState) -> TrainingState:
        """Returns the training state without the weights of inactive inputs."""
        return state._replace(
            **{name: self._pruned(getattr(state, name)) for name in _PARAMETERS},
            **{
                optimizer: _take(getattr(state, optimizer), self._indices(getattr(state, name)))
                for name, optimizer in _OPTIMIZED.items()
            },
        )

    def unprune(self, state: TrainingState, whole: TrainingState) -> TrainingState:
        """Returns the whole training state, in NumPy arrays.

        Args:
            state: Training state that `prune` made and that learning has changed since.
            whole: Training state with the other weights, which learning leaves as they are.
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
                functools.partial(_put, indices=self._indices(getattr(before, name))),
                getattr(active, optimizer),
                getattr(before, optimizer),
            )
            for name, optimizer in _OPTIMIZED.items()
        }
        return cast(TrainingState, active._replace(**kernels_of, **moments_of))

    def _pruned(self, parameters: Parameters) -> Parameters:
        return _map_first_kernels(lambda kernel: kernel[self._rows(len(kernel))], parameters)

    def _rows(self, inputs: int) -> np.ndarray:
        """Returns the active rows of a first kernel.

        Rows of actions follow those of observations, and all of them are active.
        """
        return np.concatenate([self._inputs, np.arange(self._whole_dim, inputs)])

    def _indices(self, whole: Parameters) -> np.ndarray:
        """Returns the indices of the active parameters in the vector of all parameters.

        Adam's moments are such vectors.
        """
        leaves, structure = jax.tree.flatten(whole)
        ends = np.cumsum([leaf.size for leaf in leaves])
        indices = [
            np.arange(end - leaf.size, end).reshape(leaf.shape)
            for leaf, end in zip(leaves, ends, strict=True)
        ]
        active = self._pruned(jax.tree.unflatten(structure, indices))
        return np.concatenate([part.ravel() for part in jax.tree.leaves(active)])


def _take(optimizer: Any, indices: np.ndarray) -> Any:
    """Returns the optimizer's state with these elements of its moments, and its count as it is."""
    return jax.tree.map(lambda leaf: leaf[indices] if leaf.ndim else leaf, optimizer)


def _put(active: np.ndarray, before: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns a copy of `before` with the active numbers at their indices.

    A count has no elements and is returned with its new value.
    """
    if not active.ndim:
        return active
    whole = np.array(before)
    whole[indices] = active
    return whole


def _map_first_kernels(change: Any, parameters: Parameters, *others: Parameters) -> Parameters:
    def of_leaf(path: Any, *leaves: Any) -> Any:
        return change(*leaves) if jax.tree_util.keystr(path).endswith(FIRST_KERNEL) else leaves[0]

    return jax.tree_util.tree_map_with_path(of_leaf, parameters, *others)
