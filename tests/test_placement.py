"""Which machine does what, and how many actors have room."""

import pytest
import ray

from training.placement import placement


@pytest.mark.parametrize(
    ("resources", "fit", "beside_learner"),
    [
        ({"CPU": 8.0}, 8, 7),
        ({"CPU": 1.0}, 1, 1),
        ({"CPU": 4.0, "learner": 1.0}, 1, 1),
        # The learner's node offers no `actor`.
        ({"CPU": 20.0, "learner": 1.0, "actor": 16.0}, 16, 16),
    ],
)
def test_a_cluster_has_room_for_an_actor_a_processor(monkeypatch, resources, fit, beside_learner):
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    where = placement(on_cluster=True)
    assert where.actors_that_fit() == fit
    assert where.actors_beside_learner() == beside_learner


def test_in_a_ray_of_our_own_actors_ask_for_no_processor(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    where = placement(on_cluster=False)
    assert where.actor_bundle == {"CPU": 0}
    assert where.actors_that_fit() == 2
