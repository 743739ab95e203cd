"""What of an observation can ever be other than zero.

A piece uses a few of the 88 keys: most columns of its table of goals are zero in every row. Their
weights in the first layers add nothing and get no gradient, so that Adam never moves them. The
learner leaves these inputs out: the same mathematics with a quarter of the inputs. A checkpoint
has all weights again, so that its policy can play any piece.
"""

import dataclasses
from typing import Any, TypeVar

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from learner.networks import FIRST_KERNEL, Parameters
from learner.observation import ObservationLayout
from learner.sac import TrainingState

Tree = TypeVar("Tree")


class LiveInputs:
    """The inputs that are left, and the way to them and back.

    Args:
        layout: of whole observations.
        table: (rows, features) uint8, see `learner.observation.unfold`.
    """

    def __init__(self, layout: ObservationLayout, table: np.ndarray):
        features = np.flatnonzero(table.any(axis=0))
        self.layout = dataclasses.replace(layout, features=len(features))
        """Of observations without the others."""
        self.table = np.ascontiguousarray(table[:, features])
        """(rows, live features) uint8."""
        of_a_frame = np.concatenate(
            [
                np.arange(layout.before),
                layout.before + features,
                layout.before + layout.features + np.arange(layout.after),
            ]
        )
        # Frames change fastest, see `unfold`.
        frames = np.arange(layout.frames)
        self._inputs = (of_a_frame[:, None] * layout.frames + frames).ravel()
        self._whole_dim = layout.observation_dim

    def restrict(self, state: TrainingState) -> TrainingState:
        """The training state without the weights of inputs that are left out."""

        def of_kernel(whole: Any) -> Any:
            return whole[self._rows(len(whole))]

        return self._with_parameters(state, lambda tree: _map_first_kernels(of_kernel, tree))

    def restore(self, state: TrainingState, whole: TrainingState) -> TrainingState:
        """The whole training state, in NumPy arrays.

        Args:
            state: as `restrict` made it, and as learning changed it since.
            whole: has the other weights, which learning leaves as they are.
        """
        state, whole = jax.device_get((state, whole))

        def of_kernel(live: Any, before: Any) -> Any:
            kernel = np.array(before)
            kernel[self._rows(len(before))] = live
            return kernel

        return self._with_parameters(
            state, lambda live, before: _map_first_kernels(of_kernel, live, before), whole
        )

    def _rows(self, inputs: int) -> np.ndarray:
        """Live rows of a first kernel; those of actions follow those of observations."""
        return np.concatenate([self._inputs, np.arange(self._whole_dim, inputs)])

    @staticmethod
    def _with_parameters(
        state: TrainingState, change: Any, *others: TrainingState
    ) -> TrainingState:
        """The state with `change` made to all parameters, and to their optimisers' moments."""

        def moments(name: str, optimiser: str) -> Any:
            """Moments are vectors as long as all parameters; see `sac.actor_optimiser`."""
            parameters = [getattr(one, name) for one in (state, *others)]
            unravel = [ravel_pytree(tree)[1] for tree in parameters]
            sizes = [len(ravel_pytree(tree)[0]) for tree in parameters]

            def of_leaf(*leaves: Any) -> Any:
                if leaves[0].shape != (sizes[0],):
                    return leaves[0]  # A count.
                trees = [back(leaf) for back, leaf in zip(unravel, leaves, strict=True)]
                return ravel_pytree(change(*trees))[0]

            return jax.tree.map(of_leaf, *(getattr(one, optimiser) for one in (state, *others)))

        return state._replace(
            **{
                name: change(*(getattr(one, name) for one in (state, *others)))
                for name in ("actor", "critic", "target_critic")
            },
            actor_optimiser=moments("actor", "actor_optimiser"),
            critic_optimiser=moments("critic", "critic_optimiser"),
        )


def _map_first_kernels(change: Any, parameters: Parameters, *others: Parameters) -> Parameters:
    def of_leaf(path: Any, *leaves: Any) -> Any:
        return change(*leaves) if jax.tree_util.keystr(path).endswith(FIRST_KERNEL) else leaves[0]

    return jax.tree_util.tree_map_with_path(of_leaf, parameters, *others)
