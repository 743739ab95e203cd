"""The rating server, asked over HTTP as a browser or a stranger would."""

import asyncio
import contextlib
import csv
import datetime
import http.client
import io
import json
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from collections_for_tests import METRICS, NOISES, make_collection

from common.errors import BadInput
from rlhf.collection import Collection
from rlhf.rate_page.command import RateConfig, next_command, rate
from rlhf.rate_page.guard import Guard
from rlhf.rate_page.server import Session, make_app
from rlhf.ratings import Rater, Ratings

pytestmark = pytest.mark.run

ROOT = pathlib.Path(__file__).parent.parent
ANA, BOB = Rater("Ana", "person"), Rater("Bob", "person")
TOKEN = "open-sesame"
MODULES = (
    "page.js",
    "closeup.js",
    "finish.js",
    "instruction.js",
    "keys.js",
    "memory.js",
    "player.js",
    "requests.js",
    "roll.js",
    "score.js",
)
ASSETS = tuple(f"/{name}" for name in ("page.css", *MODULES))


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served(NamedTuple):
    port: int
    ratings: Ratings

    def ask(self, path: str, body: Any = None, **headers: str) -> Answer:
        """GET, or POST if there is a body; underscores in the names of headers are hyphens."""
        return ask(self.port, path, body, **headers)

    def rate(
        self,
        segment: str,
        score: int,
        rater: Rater = ANA,
        comment: str = "",
        repetition: bool = False,
    ) -> Answer:
        values = {"segment": segment, "score": score, "comment": comment}
        return self.ask("/api/rate", by(rater, repetition=repetition, **values))

    def compare(
        self, pair: Any, preferred: str, rater: Rater = ANA, repetition: bool = False
    ) -> Answer:
        values = {"first": pair[0], "second": pair[1], "preferred": preferred}
        return self.ask("/api/compare", by(rater, repetition=repetition, **values))

    def skip(self, segment: str) -> Answer:
        return self.ask("/api/skip", by(ANA, segment=segment, repetition=False))

    def undo(self, rater: Rater = ANA) -> Answer:
        return self.ask("/api/undo", by(rater, mode="single"))

    def question(self, rater: Rater = ANA, mode: str = "single", show: str = "") -> Any:
        answer = self.ask(f"/api/question?rater={rater.name}&mode={mode}&show={show}")
        assert answer.status == 200, answer.body
        return answer.json


def by(rater: Rater, **values: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"rater": rater.name, "attribute": "", **values}


def ask(port: int, path: str, body: Any = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        sent = {"Content-Type": "application/json"} | sent
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())


@contextlib.contextmanager
def serving(
    collection: Collection, guard: Guard | None = None, port: int = 0, **session: str
) -> Iterator[Served]:
    """Runs the server in a thread."""
    ratings = Ratings(collection.ratings, [segment.name for segment in collection.planned])
    listening = socket.create_server(("127.0.0.1", port))
    sounds = collection.path.parent / "sounds"
    sounds.mkdir(exist_ok=True)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        app = make_app(collection, ratings, sounds, guard or Guard(), Session(**session))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], daemon=True)
    thread.start()
    try:
        assert started.wait(20)
        yield Served(listening.getsockname()[1], ratings)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        ratings.close()
        listening.close()


@pytest.fixture
def collection(tmp_path):
    return make_collection(tmp_path)


@pytest.fixture
def served(collection):
    with serving(collection) as served:
        yield served


# --- What is served --------------------------------------------------------------------------


def test_page_and_its_parts_need_nothing_else(served):
    page = served.ask("/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert set(re.findall(rb'(?:src|href)="([^"]+)"', page.body)) == {b"/page.css", b"/page.js"}
    modules: set[str] = set()
    for path in ASSETS:
        part = served.ask(path)
        assert part.status == 200
        assert part.headers["Content-Type"].startswith(("text/javascript", "text/css"))
        assert not re.search(rb"https?:|url\(|@import", part.body)
        modules |= set(re.findall(r'from "\.(.+?)"', part.body.decode()))
    assert modules | {"/page.css", "/page.js"} == set(ASSETS)
    for answer in (page, served.ask("/nothing"), served.ask("/api/start")):
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"


def test_notes_and_video_of_a_segment(served, collection):
    described = served.ask("/api/segments/0001").json
    assert described["media"] == "/media/0001.mp4"
    assert described["seconds"] == pytest.approx(1.2)
    assert described["due"][0] == [0.1, 0.3, 39]
    assert all(len(note) == 3 for note in described["due"] + described["played"])
    low, high = described["keys"]
    assert low < 39
    assert high > 43
    whole = served.ask("/media/0001.mp4")
    assert whole.status == 200
    assert whole.headers["Content-Type"] == "video/mp4"
    assert whole.body == collection.segments()[1].video.read_bytes()
    part = served.ask("/media/0001.mp4", Range="bytes=100-199")
    assert part.status == 206
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(whole.body)}"
    assert part.body == whole.body[100:200]


def test_sound_takes_the_place_of_a_missing_video(tmp_path):
    pytest.importorskip("fluidsynth", exc_type=ImportError)
    with serving(make_collection(tmp_path, segments=2, video=False)) as served:
        assert served.ask("/media/0000.mp4").status == 404
        assert served.ask("/api/segments/0000").json["media"] == "/media/0000.wav"
        answer = served.ask("/media/0000.wav")
        assert answer.headers["Content-Type"] in ("audio/x-wav", "audio/wav")
        with wave.open(io.BytesIO(answer.body)) as sound:
            assert sound.getnframes() / sound.getframerate() == pytest.approx(2.2, abs=0.01)
            assert any(sound.readframes(30_000))


def test_where_no_sound_can_be_made_the_notes_are_served(tmp_path, monkeypatch):
    def refuse(*_):
        raise ImportError("no library")

    monkeypatch.setattr("piano.recording.write_sound", refuse)
    with serving(make_collection(tmp_path, segments=2, video=False)) as served:
        described = served.ask("/api/segments/0000").json
        assert described["media"] is None
        assert "FluidSynth is not installed" in described["reason"]
        assert len(described["due"]) == 4
        assert served.ask("/media/0000.wav").status == 503


def test_the_study_is_blind(served, collection):
    pair = served.question(mode="pairs")["segments"]
    answers = [
        served.rate("0002", 40),
        served.compare(pair, "first"),
        served.skip("0003"),
        served.undo(),
        *(served.ask(path) for path in ("/", *ASSETS, "/api/start", "/api/summary?rater=Ana")),
        *(
            served.ask(path.format(segment.name))
            for segment in collection.segments()
            for path in ("/api/segments/{}", "/media/{}.mp4", "/api/question?rater=B&show={}")
        ),
    ]
    told = " ".join(f"{answer.headers} {answer.body!r}" for answer in answers)
    assert all(answer.status == 200 for answer in answers)
    for planned in collection.planned:
        for secret in (planned.checkpoint, planned.parameter_version, planned.seed):
            assert str(secret) not in told
    for secret in (*NOISES, *METRICS, METRICS["note_f1"], METRICS["episode_return"], "noise"):
        assert str(secret) not in told
    # Segments are recorded checkpoint by checkpoint: when a file was written tells, too.
    for answer in answers:
        assert not {"Last-Modified", "ETag"} & set(answer.headers)


# --- Answers ---------------------------------------------------------------------------------


def test_a_rating_is_kept_and_the_next_question_asked(served, collection):
    asked = served.question()
    assert (asked["done"], asked["total"], asked["score"]) == (0, 6, None)
    answer = served.rate(asked["segments"][0], 73, comment="late, but even")
    assert answer.status == 200
    assert answer.json["done"] == 1
    assert answer.json["segments"] != asked["segments"]
    assert answer.json["position"] == {"answered": False, "earlier": asked["segments"], "later": []}
    with contextlib.closing(sqlite3.connect(collection.ratings)) as database:
        rows = database.execute("SELECT rater, first, score, comment FROM answers").fetchall()
    assert rows == [("Ana", asked["segments"][0], 73, "late, but even")]


GOOD = by(ANA, segment="0001", score=50, comment="", repetition=False)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (GOOD | {"score": 0}, "1 to 100"),
        (GOOD | {"score": 101}, "1 to 100"),
        (GOOD | {"score": -73}, "1 to 100"),
        (GOOD | {"score": 73.0}, "score (int)"),
        (GOOD | {"score": "73"}, "score (int)"),
        (GOOD | {"score": True}, "score (int)"),
        (GOOD | {"score": None}, "score (int)"),
        (GOOD | {"segment": "0099"}, "no segment"),
        (GOOD | {"segment": "../0001"}, "no segment"),
        (GOOD | {"rater": ""}, "name is missing"),
        (GOOD | {"rater": " Ana"}, "space"),
        (GOOD | {"rater": "Ana\n"}, "special"),
        (GOOD | {"rater": "A" * 61}, "60 characters"),
        (GOOD | {"comment": "c" * 2001}, "2000"),
        (GOOD | {"comment": "\ud800"}, "expected a JSON object"),
        (GOOD | {"time": 0}, "expected a JSON object"),
        ({"rater": "Ana", "segment": "0001"}, "expected a JSON object"),
        ([GOOD], "expected a JSON object"),
        (b"{", "expected a JSON object"),
        (b"\xff\xfe", "expected a JSON object"),
        (b"[" * 9000, "expected a JSON object"),
        (b"", "expected a JSON object"),
    ],
)
def test_bad_ratings_are_refused_in_one_line(served, body, word):
    answer = served.ask("/api/rate", body)
    assert answer.status == 400
    assert word in answer.json["error"]
    assert "\n" not in answer.json["error"]
    assert served.ratings.raters() == []


def test_other_bad_requests_are_refused(served):
    assert "with itself" in served.compare(("0001", "0001"), "first").json["error"]
    assert "first, second or neither" in served.compare(("0001", "0002"), "third").json["error"]
    assert "no answer of yours" in served.rate("0001", 50, repetition=True).json["error"]
    other = served.ask("/api/rate", GOOD | {"attribute": "even"})
    assert (other.status, "reload" in other.json["error"]) == (400, True)
    assert served.ask("/api/summary").status == 400
    for query in ("mode=both", "show=0099", "show=0001,0002", "mode=pairs&show=0001"):
        assert served.ask(f"/api/question?rater=Ana&{query}").status == 400, query
    assert served.ask("/api/question").status == 400
    assert served.ask("/api/segments/0099").status == 404
    assert served.ask("/api/rate").status == 405
    nothing = served.undo()
    assert (nothing.status, nothing.json["error"]) == (400, "there is no answer to take back")


def test_large_bodies_are_refused(served):
    answer = served.ask("/api/rate", GOOD | {"comment": "c" * 20_000})
    assert answer.status == 413
    assert "error" in answer.json
    assert served.ratings.raters() == []


def test_what_cannot_be_kept_is_not_acknowledged(served, monkeypatch):
    def fail(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Ratings, "rate", fail)
    answer = served.rate("0001", 73)
    assert answer.status == 503
    assert "database or disk is full" in answer.json["error"]


def test_answers_can_be_corrected_skipped_and_taken_back(served):
    first, second = "0001", "0004"
    served.rate(first, 30)
    served.rate(second, 60)
    assert served.question()["position"]["earlier"] == [second]
    shown = served.question(show=first)
    assert (shown["score"], shown["position"]) == (
        30,
        {"answered": True, "earlier": [], "later": [second]},
    )
    assert served.rate(first, 35).json["done"] == 2
    assert served.question(show=first)["score"] == 35

    undone = served.undo().json
    assert (undone["segments"], undone["score"], undone["done"]) == ([first], 30, 2)
    undone = served.undo().json
    assert (undone["segments"], undone["score"], undone["done"]) == ([second], None, 1)

    skipped = served.skip(second).json
    assert skipped["done"] == 2
    assert [rating.score for rating in served.ratings.ratings()] == [30]
    assert served.question(show=second)["score"] is None
    assert served.rate(second, 61).json["done"] == 2
    assert [rating.score for rating in served.ratings.ratings()] == [30, 61]


def test_everything_is_asked_once_and_then_it_is_over(served):
    seen = []
    while segments := served.question()["segments"]:
        assert served.question()["segments"] == segments  # A reload asks the same.
        seen += segments
        left = served.rate(segments[0], 50).json["seconds_left"]
    assert sorted(seen) == [f"{number:04d}" for number in range(6)]
    assert left == 0
    assert served.question()["done"] == 6


def test_two_raters_do_not_see_each_other(served):
    segment = served.question()["segments"][0]
    served.rate(segment, 10, ANA, "dull")
    bob = served.question(BOB, show=segment)
    assert (bob["done"], bob["score"], bob["comment"]) == (0, None, "")
    served.rate(segment, 90, BOB)
    assert served.question(ANA, show=segment)["score"] == 10
    names = ("Cem", "Dora", "Eve", "Finn", "Gul", "Hana")
    firsts = {tuple(served.question(Rater(name, "person"))["segments"]) for name in names}
    assert len(firsts) > 1


def test_people_and_simulated_raters_are_not_mixed(served):
    simulated = Rater("melomane", "simulated")
    served.ratings.rate(simulated, "0001", 50)
    assert "simulated" in served.ask("/api/question?rater=melomane").json["error"]
    assert served.ask("/api/rate", GOOD | {"rater": "melomane"}).status == 400
    assert served.undo(Rater("melomane", "person")).status == 400
    assert [rating.rater for rating in served.ratings.ratings()] == [simulated]


def test_pairs_are_compared_until_the_order_is_known(served):
    # The lower its name, the better: after some answers the others can be foretold.
    seen = []
    question = served.question(mode="pairs")
    assert (question["done"], question["passage"], question["passages"]) == (0, 1, 1)
    assert question["total"] == 15 + 1  # All pairs of six, and one of them again.
    while question["segments"]:
        first, second = question["segments"]
        seen.append((first, second))
        preferred = "first" if first < second else "second"
        question = served.compare((first, second), preferred, ANA, question["repetition"]).json
    assert 6 <= len(set(map(frozenset, seen))) < 15
    assert question["done"] == question["total"] == len(seen)
    held = served.ratings.comparisons()
    assert {min(pair) for pair in seen} >= {f"{number:04d}" for number in range(5)}
    assert len(held) == len(set(map(frozenset, seen)))
    last = served.ratings.comparisons()[-1]
    undone = served.undo().json
    assert (undone["mode"], undone["segments"]) == ("pairs", [last.first, last.second])
    assert undone["preferred"] is None
    again = served.question(mode="pairs", show=",".join(undone["position"]["earlier"]))
    assert again["preferred"] in ("first", "second")
    assert len(served.ratings.comparisons()) == len(held) - 1


def test_one_answer_in_ten_is_asked_again_and_does_not_count_twice(tmp_path):
    with serving(make_collection(tmp_path, segments=12, video=False)) as served:
        given: dict[str, int] = {}
        question = served.question()
        assert question["total"] == 13
        while not question["repetition"]:
            name = question["segments"][0]
            given[name] = 10 + 5 * int(name)
            question = served.rate(name, given[name]).json
        assert len(given) == 10
        (again,) = question["segments"]
        assert again in list(given)[:5]
        # Nothing tells that it is not new.
        assert (question["score"], question["comment"], question["done"]) == (None, "", 10)
        assert question["position"] == {
            "answered": False,
            "earlier": [list(given)[-1]],
            "later": [],
        }
        assert served.question() == question
        answered = served.rate(again, given[again] + 4, repetition=True).json
        assert (answered["repetition"], answered["done"]) == (False, 11)
        assert {one.segment: one.score for one in served.ratings.ratings()} == given
        summary = served.ask("/api/summary?rater=Ana").json
        assert summary["own"]["ratings"] == 10
        assert summary["own"]["consistency"] | {"difference_between_segments": 0} == {
            "scores": 1,
            "difference": 4.0,
            "difference_between_segments": 0,
            "pairs": 0,
            "alike": None,
        }
        # Taken back, it is asked again, without the answer.
        undone = served.undo().json
        assert undone["repetition"] is True
        assert (undone["segments"], undone["score"]) == ([again], None)
        served.rate(again, given[again], repetition=True)
        while question["segments"]:
            question = served.question()
            if question["segments"]:
                served.rate(question["segments"][0], 50)
        assert question["done"] == question["total"] == 13


def test_a_pair_comes_again_the_other_way_round(tmp_path):
    with serving(make_collection(tmp_path, segments=12, video=False)) as served:
        question = served.question(mode="pairs")
        given = []
        while not question["repetition"]:
            given.append(question["segments"])
            question = served.compare(question["segments"], "neither").json
        assert len(given) == 10
        first, second = question["segments"]
        assert [second, first] in given[:5]
        assert question["preferred"] is None
        served.compare((first, second), "neither", repetition=True)
        assert len(served.ratings.comparisons()) == 10
        own = served.ask("/api/summary?rater=Ana").json["own"]
        assert (own["comparisons"], own["ties"]) == (10, 10)
        assert (own["consistency"]["pairs"], own["consistency"]["alike"]) == (1, 1.0)


def test_attributes_are_asked_for_and_kept_apart(collection):
    with serving(collection, attribute="even", rater="Ana") as served:
        assert served.ask("/api/start").json == {"rater": "Ana", "attribute": "even"}
        assert served.question()["attribute"] == "even"
        body = GOOD | {"attribute": "even"}
        assert served.ask("/api/rate", body).json["done"] == 1
        assert "reload" in served.rate("0002", 10).json["error"]
        assert served.ratings.ratings() == []
        assert [one.score for one in served.ratings.ratings("even")] == [50]
        assert served.ask("/api/summary?rater=Ana").json["own"]["ratings"] == 1
    with serving(collection) as served:
        assert served.question()["done"] == 0
        assert served.ask("/api/undo", by(ANA, mode="single")).status == 400


def test_passages_come_one_after_another(tmp_path):
    collection = make_collection(tmp_path, segments=9, video=False, passages=3)
    of = {segment.name: segment.passage for segment in collection.planned}
    with serving(collection) as served:
        first, second = served.question(mode="pairs", rater=BOB)["segments"]
        assert of[first] == of[second]
        passages = []
        for _ in range(9):
            question = served.question()
            assert question["passages"] == 3
            passages.append(question["passage"])
            served.rate(question["segments"][0], 50)
        assert passages == sorted(passages, key=passages.index)
        assert sorted(passages) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_segments_that_are_recorded_meanwhile_are_taken_up(tmp_path):
    collection = make_collection(tmp_path, segments=4, video=False)
    late = collection.folder(collection.planned[3]) / "segment.json"
    late.rename(tmp_path / "segment.json")
    with serving(collection) as served:
        while (question := served.question())["segments"]:
            served.rate(question["segments"][0], 20 * (1 + int(question["segments"][0])))
        assert served.question(mode="pairs", rater=BOB)["total"] == 3
        assert question["done"] == question["total"] == 3
        assert served.ask("/api/summary?rater=Ana").json["missing"] == 1
        assert served.ask("/api/segments/0003").status == 404
        (tmp_path / "segment.json").rename(late)
        assert served.question()["segments"] == ["0003"]
        assert served.question(mode="pairs", rater=BOB)["total"] >= 3
        assert served.ask("/api/segments/0003").status == 200
        assert served.ask("/api/summary?rater=Ana").json["missing"] == 0


def test_examples_are_a_fifth_from_either_end(collection):
    with serving(collection) as served:
        # Metrics are all the same here, so that nothing is known.
        assert served.ask("/api/examples").json == {"examples": None}
        for number, score in enumerate((90, 30, 70, 10, 50, 20)):
            served.rate(f"{number:04d}", score)
        found = served.ask("/api/examples").json["examples"]
        assert found == {"low": "0005", "high": "0002"}
    with serving(collection, attribute="even") as served:
        assert served.ask("/api/examples").json == {"examples": None}


def test_the_lead_in_is_told(tmp_path):
    with serving(make_collection(tmp_path, segments=2, video=False, lead_in=4)) as served:
        described = served.ask("/api/segments/0000").json
        assert described["lead_in"] == pytest.approx(0.2)
        assert described["seconds"] == pytest.approx(1.4)


def test_agreement_is_shown_when_there_is_some(served):
    for segment, score in (("0001", 20), ("0002", 50)):
        served.rate(segment, score, ANA)
        served.rate(segment, score + 2, BOB)
    assert served.ask("/api/summary?rater=Ana").json["agreement"] is None
    served.rate("0003", 80, ANA)
    served.rate("0003", 75, BOB)
    found = served.ask("/api/summary?rater=Cem").json
    assert found["own"] is None
    found = found["agreement"]
    assert (found["people"], found["segments"], found["spearman"]) == (2, 3, 1.0)
    assert 0.9 < found["alpha"] < 1


# --- Strangers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/media/../../collection.json",
        "/media/..%2f..%2fcollection.json",
        "/media/..%2f..%2fcollection.json.mp4",
        "/media/%2e%2e/%2e%2e/collection.json",
        "/media/0001.mp4%2f..%2f..%2f..%2fcollection.json",
        "/media/..%2fsegments%2f0001%2fvideo.mp4",
        "/media/0001%2f..%2f0001.mp4",
        "/media/0001.npz",
        "/media/0001.mp4%00",
        "/media//etc/passwd",
        "/api/segments/..%2f0001",
        "/api/segments/0001/segment.json",
        "/segments/0001/segment.json",
        "/ratings.sqlite",
        "/server.py",
        "/page.css/../server.py",
        "/%2e%2e/command.py",
        "//etc/passwd",
    ],
)
def test_nothing_else_is_served(served, path):
    answer = served.ask(path)
    assert answer.status in (400, 403, 404)
    assert set(answer.json) == {"error"}


def test_links_out_of_the_collection_are_not_followed(served, collection, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    inside, outside, notes = collection.segments()[:3]
    for link, target in (
        (inside.video, collection.segments()[4].video),
        (outside.video, secret),
        (notes.performance, secret),
    ):
        link.unlink()
        link.symlink_to(target)
    assert served.ask(f"/media/{inside.name}.mp4").status == 200
    for path in (f"/media/{outside.name}.mp4", f"/api/segments/{notes.name}"):
        answer = served.ask(path)
        assert answer.status == 403
        assert b"not yours" not in answer.body


def test_damaged_performances_are_named(served, collection):
    collection.segments()[2].performance.write_bytes(b"PK\x03\x04 half")
    answer = served.ask("/api/segments/0002")
    assert (answer.status, answer.json) == (
        500,
        {"error": "the performance of segment 0002 is damaged"},
    )


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil", "", "["])
def test_other_names_of_this_machine_are_refused(served, host):
    for path in ("/", "/page.js", "/api/question?rater=Ana", "/media/0001.mp4"):
        assert served.ask(path, Host=host.format(port=served.port)).status == 403
    assert served.ask("/api/rate", GOOD, Host=host.format(port=served.port)).status == 403
    assert served.ratings.raters() == []


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:1", "LOCALHOST"])
def test_own_names_are_let_in(served, host):
    assert served.ask("/api/rate", GOOD, Host=host.format(port=served.port)).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://["]
)
def test_pages_of_other_sites_are_refused(served, origin):
    answer = served.ask("/api/rate", GOOD, Origin=origin)
    assert answer.status == 403
    assert served.ratings.raters() == []
    own = f"http://127.0.0.1:{served.port}"
    assert served.ask("/api/rate", GOOD, Origin=own).status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/a"])
def test_forms_are_refused(served, kind):
    assert served.ask("/api/rate", GOOD, Content_Type=kind).status == 400
    assert served.ratings.raters() == []


@pytest.fixture
def closed(collection):
    """Served where others can reach it."""
    with serving(collection, Guard("0.0.0.0", TOKEN)) as served:
        yield served


EVERYTHING = ("/", *ASSETS, "/api/start", "/api/segments/0001", "/media/0001.mp4", "/nothing")


def test_without_the_token_nothing_is_told(closed):
    cookie = Guard("0.0.0.0", TOKEN).cookie
    for wrong in ("", "open-sesam", "open-sesame1", "\u00f6ffne dich"):
        for path in EVERYTHING:
            quoted = wrong.encode().hex("%")
            asked = f"{path}?token=%{quoted}" if wrong else path
            bearer = f"Bearer {wrong}".encode().decode("latin-1")
            for headers in ({}, {"Authorization": bearer}, {"Cookie": f"{cookie}={quoted}"}):
                answer = closed.ask(asked, **headers)
                assert answer.status == 403, (asked, headers)
                assert "token" in answer.json["error"]
        assert closed.ask("/api/rate", GOOD, Authorization=f"Bearer {wrong!a}").status == 403
    assert closed.ratings.raters() == []


def test_with_the_token_all_is_open(closed):
    for path in EVERYTHING[:-1]:
        assert closed.ask(path, Authorization=f"Bearer {TOKEN}").status == 200
    assert closed.ask("/api/rate", GOOD, Authorization=f"Bearer {TOKEN}").status == 200
    # Only the page takes it as part of its address, and makes a cookie of it.
    assert closed.ask(f"/api/start?token={TOKEN}").status == 403
    answer = closed.ask(f"/?token={TOKEN}&mode=pairs")
    assert answer.status == 200
    assert b'url=/?mode=pairs"' in answer.body
    assert TOKEN.encode() not in answer.body
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    pair = cookie.partition(";")[0]
    assert all(closed.ask(path, Cookie=pair).status == 200 for path in EVERYTHING[:-1])
    assert closed.ask("/api/start", Cookie=pair, Origin="http://evil.example").status == 403


# --- The command -----------------------------------------------------------------------------


class Process(NamedTuple):
    process: subprocess.Popen
    address: str

    @property
    def port(self) -> int:
        return int(re.search(r":(\d+)/", self.address)[1])  # type: ignore[index]


@contextlib.contextmanager
def command(collection: Collection, temporary: pathlib.Path, *flags: str) -> Iterator[Process]:
    """The command in a process of its own, until it can be asked."""
    temporary.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "pianist.py"),
            "rate",
            str(collection.path),
            "--port",
            "0",
            *flags,
            "--json",
        ],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), "CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        address = next(line.split()[-1] for line in lines if "segments at" in line)
        yield Process(process, address)
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen, number: int) -> Any:
    """Ends a command by a signal; returns its answer."""
    begun = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert time.monotonic() - begun < 3.0
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return json.loads(output)


def test_what_was_acknowledged_survives_a_killed_server(collection, tmp_path):
    temporary = tmp_path / "temporary"
    with command(collection, temporary) as served:
        ask(served.port, "/api/rate", GOOD | {"segment": "0002", "score": 41})
        acknowledged = ask(served.port, "/api/rate", GOOD)
        os.kill(served.process.pid, signal.SIGKILL)
        assert acknowledged.status == 200
        assert served.process.wait(10) == -signal.SIGKILL
    with command(collection, tmp_path / "next") as served:
        assert ask(served.port, "/api/question?rater=Ana").json == acknowledged.json
        assert ask(served.port, "/api/question?rater=Ana&show=0001").json["score"] == 50
        answer = end(served.process, signal.SIGTERM)
    assert answer == {
        "collection": str(collection.path),
        "attribute": "",
        "ratings": 2,
        "comparisons": 0,
        "ties": 0,
        "agreement": None,
        "raters": {"Ana": {"ratings": 2, "comparisons": 0, "ties": 0, "consistency": None}},
    }
    assert list((tmp_path / "next").iterdir()) == []


def test_other_addresses_get_a_token_of_their_own(collection, tmp_path):
    temporary = tmp_path / "temporary"
    with command(collection, temporary, "--host", "0.0.0.0") as served:
        token = re.search(r"/\?token=([\w-]{32,})$", served.address)
        assert token is not None
        assert ask(served.port, "/api/start").status == 403
        bearer = f"Bearer {token[1]}"
        assert ask(served.port, "/api/start", Authorization=bearer).status == 200
        # A connection that is kept open must not keep the command from ending.
        with socket.create_connection(("127.0.0.1", served.port)) as idle:
            idle.sendall(b"GET / HTTP/1.1\r\n")
            end(served.process, signal.SIGINT)
    assert list(temporary.iterdir()) == []


def test_port_in_use_is_named(collection):
    with serving(collection) as served, pytest.raises(BadInput, match=r"in use.*--port"):
        rate(RateConfig(str(collection.path), port=served.port))
    with pytest.raises(BadInput, match=r"--host nowhere\.invalid"):
        rate(RateConfig(str(collection.path), host="nowhere.invalid", port=0))


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"port": -1}, "--port is -1"),
        ({"port": 65536}, "0 to 65535"),
        ({"rater": " Ana"}, "--rater"),
        ({"rater": "A" * 61}, "61 characters"),
        ({"token": "short"}, "--token"),
        ({"attribute": "even "}, "--attribute"),
        ({"attribute": "even" * 11}, "44 characters"),
        ({"attribute": "even", "simulate": "note-f1"}, "--attribute"),
        ({"export": "answers.csv", "simulate": "note-f1"}, "--export"),
        ({"token": "with a space"}, "--token"),
    ],
)
def test_bad_flags_are_named(flags, word):
    with pytest.raises(BadInput, match=word):
        RateConfig("collection", **flags)


def test_collection_without_segments_cannot_be_rated(tmp_path):
    with pytest.raises(BadInput, match="no collection"):
        rate(RateConfig(str(tmp_path)))


def test_all_answers_are_exported(collection, tmp_path):
    with serving(collection) as served:
        served.rate("0001", 30, comment='dull, "even"\nslow')
        served.rate("0001", 35)
        served.rate("0002", 60, BOB)
        served.undo(BOB)
        served.ratings.compare(ANA, "0004", "0003", "neither", "even")
        served.ratings.compare(ANA, "0003", "0004", "first", "even", repetition=True)
    file = tmp_path / "answers.csv"
    found = rate(RateConfig(str(collection.path), export=str(file)))
    assert found == {"collection": str(collection.path), "export": str(file), "answers": 5}
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["rater"], row["kind"], row["state"]) for row in rows] == [
        ("Ana", "rating", "replaced"),
        ("Ana", "rating", "holds"),
        ("Bob", "rating", "taken back"),
        ("Ana", "comparison", "holds"),
        ("Ana", "comparison", "holds"),
    ]
    assert rows[0]["comment"] == 'dull, "even"\nslow'
    assert datetime.datetime.fromisoformat(rows[0]["time"]).utcoffset() == datetime.timedelta(0)
    planned = {segment.name: segment for segment in collection.planned}
    last = rows[-1]
    assert (last["attribute"], last["repetition"], last["preferred"]) == ("even", "1", "first")
    assert (last["song"], last["first_step"], last["last_step"]) == ("0", "8", "32")
    assert last["second_checkpoint"] == planned["0004"].checkpoint
    assert "noise 0.074" in last["first_variation"]
    with pytest.raises(BadInput, match="--export"):
        rate(RateConfig(str(collection.path), export=str(tmp_path / "nowhere" / "a.csv")))


@pytest.mark.parametrize(
    ("named", "flags", "command"),
    [
        ("RUN", {}, "pianist cpl RUN --load-checkpoint RUN"),
        ("RUN/collections/1", {}, "pianist cpl RUN/collections/1 --load-checkpoint RUN"),
        (
            "s3://b/my run/collections/1/",
            {"attribute": "not loud"},
            "pianist cpl 's3://b/my run/collections/1/' --load-checkpoint 's3://b/my run' "
            "--attribute 'not loud'",
        ),
    ],
)
def test_the_end_says_what_comes_next(tmp_path, named, flags, command):
    collection = make_collection(tmp_path / "collections", segments=1, video=False)
    assert next_command(RateConfig(named, **flags), collection) == command
    carried = make_collection(tmp_path / "elsewhere", segments=1, video=False)
    assert "--load-checkpoint runs/demo" in next_command(RateConfig("here"), carried)
