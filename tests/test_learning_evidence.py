"""The comparison of learning curves on curves made by hand."""

import json

import numpy as np
import pytest

from benchmarks.learning_evidence import compare, main, smoothed


def write(folder, seconds_a_step, until):
    folder.mkdir(parents=True)
    with (folder / "logbook.jsonl").open("w") as file:
        file.write(json.dumps({"seconds": 1.0, "environment_steps": 1}) + "\n")
        for step in range(until):
            value = step / 100
            line = {"seconds": seconds_a_step * step, "environment_steps": 10 * step}
            line |= {
                f"eval/{name}": value * factor
                for name, factor in (("episode_return", 500), ("f1", 1), ("note_f1", 0.5))
            }
            file.write(json.dumps(line) + "\n")


def test_the_smoothed_curve_is_the_mean_of_the_last_five():
    curve = {"eval/f1": np.arange(7.0)}
    assert smoothed(curve, "eval/f1").tolist() == [0, 0.5, 1, 1.5, 2, 3, 4]


def test_how_much_sooner_is_the_ratio_of_wall_clock_times(tmp_path):
    for seed in (1, 2):
        write(tmp_path / f"ours-{seed}", seconds_a_step=2, until=100)
        write(tmp_path / f"baseline-{seed}", seconds_a_step=10, until=50)
        (tmp_path / f"baseline-{seed}" / "done.json").write_text("{}")
    write(tmp_path / "baseline-3", seconds_a_step=10, until=5)  # Not complete.
    answer = main(tmp_path, tmp_path / "learning")
    assert set(answer) == {"1", "2"}
    for row in answer["1"].values():
        assert row["baseline_over_ours"] == pytest.approx(5)
        assert row["ours_at_end"] > row["baseline_at_end"]
    assert answer["1"]["frame F1"]["baseline_at_end"] == pytest.approx(0.47)
    assert json.loads((tmp_path / "learning.json").read_text())["comparisons"] == answer
    assert (tmp_path / "learning.png").stat().st_size > 10_000
    # Without the runs, what was published stays; a further seed comes to it.
    write(tmp_path / "others" / "ours-7", seconds_a_step=2, until=100)
    write(tmp_path / "others" / "baseline-7", seconds_a_step=8, until=50)
    (tmp_path / "others" / "baseline-7" / "done.json").write_text("{}")
    more = main(tmp_path / "others", tmp_path / "learning")
    assert set(more) == {"1", "2", "7"}
    assert more["1"] == answer["1"]
    assert more["7"]["return"]["baseline_over_ours"] == pytest.approx(4)


def test_what_is_never_reached_is_said_to_take_for_ever():
    def curve(values):
        array = np.array(values, float)
        names = ("seconds", "environment_steps")
        measures = ("eval/episode_return", "eval/f1", "eval/note_f1")
        return dict.fromkeys(names, np.arange(1.0, len(array) + 1)) | dict.fromkeys(measures, array)

    row = compare(ours=curve([0, 0]), baseline=curve([1, 1]))["frame F1"]
    assert row["ours_seconds"] == float("inf")
    assert row["baseline_over_ours"] == 0
