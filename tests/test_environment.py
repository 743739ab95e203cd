"""The fast environment beside robopianist's own: the same numbers, step by step."""

import dataclasses
import pathlib
import pickle

import dm_env_wrappers
import numpy as np
import pytest
from dm_control.utils import rewards
from hypothesis import given, settings
from hypothesis import strategies as st
from note_seq.protobuf import music_pb2
from robopianist import suite
from robopianist.music import midi_file

from common.errors import BadInput
from learner.observation import ObservationLayout, assemble
from piano.config import EnvironmentConfig, SongConfig
from piano.environment import PianoEnvironment
from piano.reference_environment import ReferenceEnvironment
from piano.repertoire import Repertoire
from piano.song import Song, load_songs
from piano.task import transport_reward
from piano.task_spec import make_score
from replay.transition import Observation

EXAMPLES = pathlib.Path(__file__).parent.parent / "example_midis"
KNOWN = EnvironmentConfig(
    gravity_compensation=True,
    reduced_action_space=True,
    primitive_fingertip_collisions=True,
    action_reward_observation=True,
)
TWINKLE = SongConfig(trim_silence=True)


def example(name, **settings):
    return SongConfig(midi_file=(EXAMPLES / f"{name}.mid",), **settings)


def piano_of(song, config):
    return Repertoire([song], config).piano(0)


def action_sequences(steps, dimension, seed):
    """Violent ones, beyond the bounds, and smooth ones that press keys."""
    random = np.random.default_rng(seed)
    yield random.uniform(-1.3, 1.3, (steps, dimension)).astype(np.float32)
    walk = np.cumsum(random.normal(scale=0.3, size=(steps, dimension)), axis=0)
    yield np.sin(walk).astype(np.float32)


def assert_same(song, config, seed=0, most_steps=None):
    """Plays two episodes side by side."""
    reference = ReferenceEnvironment(song, config)
    repertoire = Repertoire([song], config)
    piano, table = repertoire.piano(0), repertoire.table
    fast = PianoEnvironment(piano)
    presses = 0
    for actions in action_sequences(piano.episode_length, piano.action_dim, seed):
        theirs, ours = reference.reset(), fast.reset()
        for action in actions[:most_steps]:
            np.testing.assert_array_equal(
                assemble(piano.layout, table, ours.observation), theirs.observation
            )
            theirs, ours = reference.step(action), fast.step(action)
            assert ours.reward == pytest.approx(float(theirs.reward), abs=1e-6)
            assert ours.discount == theirs.discount
            assert ours.last == theirs.last()
            np.testing.assert_array_equal(fast.keys_down, reference.task.piano.activation)
            assert fast.pedal_down == reference.task.piano.sustain_activation[0]
            np.testing.assert_array_equal(fast.data.qpos, reference.composer.physics.data.qpos)
            presses += int(fast.keys_down.sum())
            if ours.last:
                break
        np.testing.assert_array_equal(
            assemble(piano.layout, table, ours.observation), theirs.observation
        )
    assert piano.layout.observation_dim == theirs.observation.size
    return presses


@pytest.mark.parametrize(
    "song_config",
    [
        TWINKLE,
        SongConfig(environment_name="RoboPianist-debug-CMajorScaleTwoHands-v0"),
        SongConfig(environment_name="RoboPianist-debug-NocturneRousseau-v0", stretch_factor=0.4),
        example("five_finger_scale"),
        example("fur_elise", trim_silence=True),
        example("ode_to_joy", stretch_factor=0.7),
        example("prelude_in_c", shift_factor=-5),
        example("prelude_in_e_minor", stretch_factor=0.5, shift_factor=2),
    ],
    ids=lambda config: [*config.midi_file, pathlib.Path(config.environment_name)][0].stem,
)
def test_same_numbers_in_every_piece(song_config):
    assert assert_same(load_songs(song_config)[0], KNOWN) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"frame_stack": 3, "disable_hand_collisions": True, "preparation_steps": 10},
        {"frame_stack": 2, "action_reward_observation": False, "clip": False},
        {"wrong_press_termination": True, "disable_colorization": True},
        {"disable_fingering_reward": True, "n_steps_lookahead": 0},
        {"disable_forearm_reward": True, "control_timestep": 0.005},
        {
            "n_steps_lookahead": 300,
            "control_timestep": 0.1,
            "primitive_fingertip_collisions": False,
        },
        {"gravity_compensation": False, "reduced_action_space": False},
    ],
    ids=str,
)
def test_same_numbers_under_every_option(options):
    song = load_songs(TWINKLE)[0]
    assert_same(song, dataclasses.replace(KNOWN, **options), most_steps=80)


@pytest.mark.parametrize(
    "options",
    [
        {"frame_stack": 2, "action_reward_observation": False, "preparation_steps": 10},
        {"wrong_press_termination": True, "n_steps_lookahead": 0},
        {"disable_fingering_reward": True},
        {"control_timestep": 0.005},
    ],
    ids=str,
)
def test_same_numbers_with_fingering_by_transport(options):
    song = load_songs(example("twinkle_twinkle"))[0]
    assert_same(song, dataclasses.replace(KNOWN, **options), most_steps=80)


notes = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(21, 108), st.integers(0, 9)),
    min_size=1,
    max_size=12,
    unique_by=lambda note: note[2],
)


@given(notes=notes, pedal=st.lists(st.integers(0, 30), max_size=4), annotated=st.booleans())
@settings(max_examples=5, deadline=None)
def test_same_numbers_for_generated_songs(notes, pedal, annotated):
    sequence = music_pb2.NoteSequence()
    for start, length, pitch, finger in notes:
        sequence.notes.add(
            start_time=0.05 * start,
            end_time=0.05 * (start + length),
            pitch=pitch,
            velocity=80,
            part=finger if annotated else 0,
        )
    for i, step in enumerate(sorted(pedal)):
        sequence.control_changes.add(
            time=0.05 * step, control_number=64, control_value=127 * (1 - i % 2)
        )
    sequence.total_time = max(note.end_time for note in sequence.notes)
    song = Song("generated", midi_file.MidiFile(seq=sequence))
    assert_same(song, dataclasses.replace(KNOWN, n_steps_lookahead=3), most_steps=45)


def test_the_reference_is_the_published_environment():
    """`suite.load`, wrapped by hand, gives what our reference environment gives."""
    reference = suite.load(
        "RoboPianist-debug-TwinkleTwinkleRousseau-v0",
        seed=0,
        task_kwargs={
            "n_steps_lookahead": 10,
            "trim_silence": True,
            "gravity_compensation": True,
            "reduced_action_space": True,
            "primitive_fingertip_collisions": True,
            "change_color_on_activation": True,
        },
    )
    for wrapper in (
        dm_env_wrappers.ObservationActionRewardWrapper,
        dm_env_wrappers.ConcatObservationWrapper,
        lambda env: dm_env_wrappers.CanonicalSpecWrapper(env, clip=True),
    ):
        reference = wrapper(reference)
    ours = ReferenceEnvironment(load_songs(TWINKLE)[0], KNOWN)
    ours_step, reference_step = ours.reset(), reference.reset()
    for action in next(action_sequences(40, 39, seed=1)):
        # NumPy 2 refuses the last wrapper, SinglePrecisionWrapper; this is what it does.
        np.testing.assert_array_equal(ours_step.observation, np.float32(reference_step.observation))
        ours_step, reference_step = ours.step(action), reference.step(action)
        assert ours_step.reward == np.float32(reference_step.reward)
    assert ours_step.observation.dtype == np.float32
    assert ours_step.observation.size == 1164


def test_recording_changes_no_number():
    piano = piano_of(load_songs(TWINKLE)[0], KNOWN)
    plain, recorded = PianoEnvironment(piano), PianoEnvironment(piano)
    plain.reset(), recorded.reset()
    substeps = []
    for action in list(action_sequences(60, piano.action_dim, seed=2))[1]:
        one = plain.step(action)
        other = recorded.step(action, lambda: substeps.append(recorded.data.time))
        np.testing.assert_array_equal(
            one.observation.proprioception, other.observation.proprioception
        )
        assert one.reward == other.reward
    assert len(substeps) == 600


def test_environments_of_one_model_do_not_disturb_each_other():
    piano = piano_of(load_songs(TWINKLE)[0], KNOWN)
    alone, first, second = (PianoEnvironment(piano) for _ in range(3))
    violent, smooth = action_sequences(60, piano.action_dim, seed=3)
    alone.reset(), first.reset(), second.reset()
    for action, other in zip(smooth, violent, strict=False):
        expected = alone.step(action)
        second.step(other)
        np.testing.assert_array_equal(
            first.step(action).observation.proprioception, expected.observation.proprioception
        )


def test_what_is_sent_to_another_process_plays_the_same():
    repertoire = Repertoire(load_songs(TWINKLE), KNOWN)
    sent = pickle.loads(pickle.dumps(repertoire))
    assert "scene" in vars(sent)  # It is not built again.
    here, there = PianoEnvironment(repertoire.piano(0)), PianoEnvironment(sent.piano(0))
    here.reset(), there.reset()
    for action in list(action_sequences(60, here.piano.action_dim, seed=4))[1]:
        ours, theirs = here.step(action), there.step(action)
        np.testing.assert_array_equal(
            ours.observation.proprioception, theirs.observation.proprioception
        )
        assert ours.reward == theirs.reward


def test_observations_given_out_stay_as_they_were():
    environment = PianoEnvironment(piano_of(load_songs(TWINKLE)[0], KNOWN))
    given_out = environment.reset().observation.proprioception
    before = given_out.copy()
    environment.step(np.ones(environment.piano.action_dim, np.float32))
    np.testing.assert_array_equal(given_out, before)


def test_the_end_of_the_song_bootstraps_and_a_wrong_press_does_not():
    song = load_songs(TWINKLE)[0]
    environment = PianoEnvironment(piano_of(song, KNOWN))
    timestep = environment.reset()
    while not timestep.last:
        timestep = environment.step(np.zeros(environment.piano.action_dim, np.float32))
    assert timestep.discount == 1.0
    failing = piano_of(song, dataclasses.replace(KNOWN, wrong_press_termination=True))
    environment = PianoEnvironment(failing)
    timestep, steps = environment.reset(), 0
    for action in list(action_sequences(158, failing.action_dim, seed=0))[1]:
        timestep, steps = environment.step(action), steps + 1
        if timestep.last:
            break
    assert steps < failing.episode_length
    assert timestep.discount == 0.0


def test_most_of_an_observation_is_never_stored():
    layout = piano_of(load_songs(TWINKLE)[0], KNOWN).layout
    assert layout.observation_dim == 1164
    assert layout.proprioception_dim == 175


def test_unfolding_by_hand():
    layout = ObservationLayout(before=1, features=2, after=1, frames=2)
    table = np.array([[0, 0], [10, 11], [20, 21]], np.uint8)
    proprioception = np.array([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [5.0, 6.0]]], np.float32)
    rows = np.array([2, 1], np.int32)
    # Frames are [before, features, after]; of each number the older frame comes first.
    np.testing.assert_array_equal(
        assemble(layout, table, Observation(proprioception, rows)),
        [[1, 3, 10, 20, 11, 21, 2, 4], [0, 5, 0, 10, 0, 11, 0, 6]],
    )


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_several_songs_share_one_table(frame_stack):
    config = dataclasses.replace(KNOWN, frame_stack=frame_stack)
    songs = load_songs(
        SongConfig(midi_file=tuple(sorted(EXAMPLES.glob("*.mid"))[:3]), trim_silence=True)
    )
    repertoire = Repertoire(songs, config)
    for number, song in enumerate(songs):
        ours = PianoEnvironment(repertoire.piano(number))
        reference = ReferenceEnvironment(song, config)
        observation, expected = ours.reset().observation, reference.reset().observation
        _, smooth = action_sequences(100, ours.piano.action_dim, seed=number)
        for action in smooth:
            np.testing.assert_array_equal(
                assemble(ours.piano.layout, repertoire.table, observation), expected
            )
            observation, expected = (
                ours.step(action).observation,
                reference.step(action).observation,
            )
    assert repertoire.piano(4).first_row == repertoire.piano(1).first_row


def test_songs_that_are_observed_differently_cannot_be_learnt_together():
    songs = load_songs(TWINKLE) + load_songs(example("five_finger_scale"))
    with pytest.raises(BadInput, match="--disable-fingering-reward"):
        Repertoire(songs, KNOWN)
    Repertoire(songs, dataclasses.replace(KNOWN, disable_fingering_reward=True))


def test_score_of_a_song():
    song = load_songs(example("five_finger_scale"))[0]
    score = make_score(song, EnvironmentConfig(n_steps_lookahead=2))
    trajectory = song.trajectory(0.05)
    assert score.keys.shape == (len(trajectory), 88)
    for step, due in enumerate(trajectory.notes):
        assert set(np.flatnonzero(score.keys[step])) == {note.key for note in due}
    np.testing.assert_array_equal(score.features[0, 89:177], score.keys[1])
    np.testing.assert_array_equal(score.features[-1], score.features[-2])
    assert score.features[-2, 89:].sum() == 0


# --- Preparation ------------------------------------------------------------------------


def next_onset(score, step, within):
    """The keys that begin next, and their fingers, with plain loops over the score."""
    for ahead in range(step + 1, min(step + 1 + within, len(score.keys))):
        begins = [key for key in range(88) if score.keys[ahead, key] > score.keys[ahead - 1, key]]
        if begins:
            order = score.keys_in_order[ahead].tolist()
            fingers = [score.fingers[ahead][order.index(key)] for key in begins if score.fingers]
            return begins, fingers
    return [], []


@pytest.mark.parametrize("config", [TWINKLE, example("five_finger_scale")], ids=["PIG", "MIDI"])
def test_fingers_are_rewarded_for_being_near_the_next_keys_too(config):
    song = load_songs(config)[0]
    piano = Repertoire([song], dataclasses.replace(KNOWN, preparation_steps=4)).piano(0)
    environment, score = PianoEnvironment(piano), piano.score
    scene, data = piano.scene, environment.data
    environment.reset()
    differences = []
    _, smooth = action_sequences(60, piano.action_dim, seed=3)
    for step, action in enumerate(smooth):
        played = environment.step(action)
        now = score.keys_in_order[step].tolist()
        begins, fingers = next_onset(score, step, within=4)
        if score.fingers:
            held = score.fingers[step].tolist()
            more = zip(begins, fingers, strict=True)
            pairs = [*zip(now, held, strict=True)]
            pairs += [(key, finger) for key, finger in more if finger not in held]
        else:
            now_and_soon = [*now, *(key for key in begins if key not in now)]

        def closeness(keys, fingers):
            if not keys:
                return 0.0
            targets = data.geom_xpos[scene.key_geoms[keys]] + scene.key_targets[keys]
            tips = data.site_xpos[scene.fingertips]
            if fingers is None:
                return transport_reward(tips, targets)
            distance = np.linalg.norm(targets - tips[fingers], axis=1)
            return float(
                np.mean(rewards.tolerance(distance, (0, 0.01), margin=0.1, sigmoid="gaussian"))
            )

        if score.fingers:
            plain = closeness(now, held)
            prepared = closeness([key for key, _ in pairs], [finger for _, finger in pairs])
        else:
            plain, prepared = closeness(now, None), closeness(now_and_soon, None)
        assert played.learnt_reward - played.reward == pytest.approx(prepared - plain, abs=1e-6)
        differences.append(prepared - plain)
        if played.last:
            break
    assert np.count_nonzero(differences) > 20


def test_without_preparation_robopianist_s_reward_is_learnt():
    piano = Repertoire(load_songs(TWINKLE), KNOWN).piano(0)
    environment = PianoEnvironment(piano)
    environment.reset()
    _, smooth = action_sequences(30, piano.action_dim, seed=0)
    for action in smooth:
        played = environment.step(action)
        assert played.learnt_reward == played.reward


# --- Fingering by optimal transport -----------------------------------------------------


@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize(
    ("hold", "low", "high"),
    [
        (0, "xx..xxx.x.", "...xx....."),
        (1, "xxx.xxx.xx", "...xxx...."),  # Repeated notes stay apart.
        (3, "xxx.xxx.xx", "...xxxxx.."),
        (9, "xxx.xxx.xx", "...xxxxxxx"),  # Up to the end of the song.
        (-1, "x...xx..x.", "...x......"),
        (-2, "x...x...x.", "...x......"),  # Something of each note is left.
        (-9, "x...x...x.", "...x......"),
    ],
)
def test_notes_of_a_score_can_be_held_longer_or_shorter(hold, low, high, annotated):
    """Each string says when a key is due; a finger is in use as long as its key is due."""
    sequence = music_pb2.NoteSequence()
    for pitch, finger, beginning, end in (
        (40, 2, 0, 2),
        (40, 2, 4, 7),
        (40, 2, 8, 9),
        (52, 7, 3, 5),
    ):
        note = sequence.notes.add(pitch=pitch, velocity=80)
        # Within the control steps, so that rounding does not matter.
        note.start_time, note.end_time = 0.05 * (beginning + 0.2), 0.05 * (end - 0.2)
        note.part = finger if annotated else -1
    sequence.total_time = 0.45
    song = Song("held", midi_file.MidiFile(seq=sequence))
    score = make_score(song, EnvironmentConfig(n_steps_lookahead=2), hold)
    due = {19: [mark == "x" for mark in low], 31: [mark == "x" for mark in high]}
    for key in range(88):
        np.testing.assert_array_equal(score.keys[:, key], due.get(key, [False] * 10))
    fingers = 10 if annotated else 0
    goals = score.features[:10, fingers:].reshape(10, 3, 89)
    for ahead in range(3):
        np.testing.assert_array_equal(goals[: 10 - ahead, ahead, :88], score.keys[ahead:])
    if annotated:
        np.testing.assert_array_equal(score.features[:10, 2], due[19])
        np.testing.assert_array_equal(score.features[:10, 7], due[31])


def test_transport_assigns_each_finger_once_by_least_total_distance():
    fingertips = np.array([[0.0, 0, 0], [0.1, 0, 0], [5.0, 0, 0]])
    targets = np.array([[0.12, 0, 0], [0.05, 0, 0.07]])
    # Finger 1 is nearest to both keys; finger 0 is next for the second one.
    expected = np.mean([tolerance(0.02), tolerance(np.hypot(0.05, 0.07))])
    assert transport_reward(fingertips, targets) == pytest.approx(expected)
    assert transport_reward(targets, targets) == 1.0
    more_keys_than_fingers = np.arange(12.0)[:, None] * np.array([1.0, 0, 0])
    assert transport_reward(more_keys_than_fingers[:10], more_keys_than_fingers) == 1.0


def tolerance(distance):
    return rewards.tolerance(distance, bounds=(0, 0.01), margin=0.1, sigmoid="gaussian")
