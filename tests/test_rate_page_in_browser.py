"""The rating page in a real browser, used as people use it: by keyboard, by touch, by reload."""

import contextlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from collections_for_tests import make_collection
from test_rate_page import ANA, BOB, TOKEN, Served, command, end, serving

from rlhf.collection import Collection
from rlhf.rate_page.guard import Guard
from rlhf.ratings import Ratings

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="chromium is not installed: sudo apt-get install chromium"
    ),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
DESKTOP = {"width": 1280, "height": 800}
PHONES = ({"width": 360, "height": 740}, {"width": 390, "height": 844})
TOUCH: dict[str, Any] = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    """Opens pages, each of a person of their own; nothing on them may go wrong unnoticed."""
    contexts, problems = [], []
    expected = ["net::ERR_"]  # Pages may outlive the server that they ask.

    def open_page(address: str, viewport: dict[str, int] = DESKTOP, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda message: problems.append(message.text) if message.type == "error" else None,
        )
        page.goto(address)
        return page

    open_page.expected = expected  # type: ignore[attr-defined]
    yield open_page
    for context in contexts:
        context.close()
    assert [one for one in problems if not any(words in one for words in expected)] == []


@pytest.fixture
def collection(tmp_path) -> Collection:
    return make_collection(tmp_path)


@pytest.fixture
def served(collection) -> Iterator[Served]:
    with serving(collection) as served:
        yield served


def address(served: Served, path: str = "/") -> str:
    return f"http://127.0.0.1:{served.port}{path}"


def until(page: Any, condition: str, seconds: float = 15.0) -> None:
    """Waits until an expression is true; the page's policy forbids playwright's own way."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition} in: {page.inner_text('body')}"
        page.wait_for_timeout(20)


def begin(page: Any, name: str = "Ana") -> None:
    """Gives a name and closes the instruction, by keyboard: both have the focus at once."""
    give_name(page, name)
    understand(page)


def give_name(page: Any, name: str = "Ana") -> None:
    page.wait_for_selector("#naming:not([hidden])")
    page.keyboard.type(name)
    page.keyboard.press("Enter")


def understand(page: Any) -> None:
    page.wait_for_selector("#instruction[open]")
    page.keyboard.press("Enter")
    until(page, "!document.getElementById('instruction').open")


def shown(page: Any) -> str:
    return page.get_attribute("#question", "data-segments")


def press(page: Any, *keys: str) -> str:
    """Presses keys, of which the last leads to another question; returns that."""
    before = shown(page)
    for key in keys:
        page.keyboard.press(key)
    until(page, f"document.getElementById('question').dataset.segments !== '{before}'")
    until(page, "!document.body.hasAttribute('aria-busy')")
    return shown(page)


def scores_of(served: Served) -> dict[str, int]:
    return {rating.segment: rating.score for rating in served.ratings.ratings()}


# --- Rating ----------------------------------------------------------------------------------


def test_a_whole_session_by_keyboard_alone(served, open_page):
    page = open_page(address(served))
    begin(page)
    given: dict[str, int] = {}
    for keys, score in (
        ("73", 73),
        (["7", "Backspace", "8", "5"], 85),
        (["7", "0", "8"], 8),  # 708 is too much: a new number begins.
        (["1", "0", "0", "ArrowUp", "ArrowDown"], 99),
        (["PageDown", "PageDown", "ArrowUp"], 31),  # The slider begins in the middle.
    ):
        given[shown(page)] = score
        for key in keys:
            page.keyboard.press(key)
        assert page.input_value("#score") == str(score)
        assert page.input_value("#slider") == str(score)
        press(page, "Enter")
        assert scores_of(served) == given
        assert page.inner_text("#message") == f"Saved: {score}."
        assert page.inner_text("#count") == f"{len(given)} of 6 answered"
        assert page.input_value("#score") == ""
    assert page.inner_text("#left") == "about 1 min left"
    given[shown(page)] = 1
    page.keyboard.press("c")
    page.keyboard.type("Wrong 73 times")  # Letters and digits are no commands here.
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    press(page, "Enter")
    assert scores_of(served) == given
    assert served.ratings.ratings()[-1].comment == "Wrong 73 times"
    assert page.inner_text("#task") == "Thank you: you have been through all 6."
    assert page.get_attribute("#question", "data-finished") == "true"
    assert {rating.rater for rating in served.ratings.ratings()} == {ANA}


def test_enter_without_a_score_saves_nothing(served, open_page):
    page = open_page(address(served))
    begin(page)
    page.keyboard.press("Enter")
    page.wait_for_selector("#error:not([hidden])")
    assert "Choose a score" in page.inner_text("#error")
    assert served.ratings.raters() == []


def test_skip_take_back_and_correct_by_keyboard(served, open_page):
    page = open_page(address(served))
    begin(page)
    first = shown(page)
    second = press(page, "2", "0", "Enter")
    third = press(page, "s")
    assert served.ratings.answered("Ana") == [first, second]
    assert press(page, "z") == second
    assert page.inner_text("#message") == "Your last answer has been taken back."
    assert press(page, "Backspace") == first  # No digit is there to be deleted.
    assert served.ratings.answered("Ana") == []
    assert page.input_value("#score") == ""
    open_page.expected.append("status of 400")
    page.keyboard.press("Z")
    until(page, "!document.getElementById('error').hidden")
    assert "there is no answer to take back" in page.inner_text("#error")

    press(page, "2", "1", "Enter")
    press(page, "6", "0", "Enter")
    assert shown(page) == third
    assert press(page, "ArrowLeft") == second
    assert press(page, "ArrowLeft") == first
    assert page.input_value("#score") == "21"
    assert page.inner_text("#correcting") == "You gave this 21. A new score replaces it."
    assert press(page, "ArrowRight") == second
    assert press(page, "ArrowRight") == third
    press(page, "ArrowLeft")
    assert press(page, "5", "5", "Enter") == third
    assert scores_of(served) == {first: 21, second: 55}


def test_buttons_are_reached_by_tab_and_keep_their_keys(served, open_page):
    page = open_page(address(served))
    begin(page)
    first = shown(page)
    names: list[str] = []
    while "save" not in names and len(names) < 30:
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id"))
        if names[-1] == "more":
            page.keyboard.press("Enter")  # Presses the button, and does not save.
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert served.ratings.raters() == []
    press(page, "Space")
    assert scores_of(served) == {first: 51}
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, textarea")].filter(
            (one) => !(one.innerText || one.ariaLabel || one.labels?.length)
        ).map((one) => one.id)"""
    )
    assert unnamed == []


def test_slider_and_buttons_by_pointer(served, open_page):
    page = open_page(address(served))
    begin(page)
    first = shown(page)
    box = page.locator("#slider").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    score = int(page.input_value("#score"))
    assert 70 <= score <= 80
    page.click("#more")
    page.keyboard.press("ArrowUp")
    press(page, "Enter")  # Goes to the page, not to the button that was clicked.
    assert scores_of(served) == {first: score + 2}


# --- Hearing and seeing ----------------------------------------------------------------------


def test_video_sounds_and_the_roll_moves_with_it(tmp_path, open_page):
    collection = make_collection(tmp_path, segments=2, checkpoints=1, steps=40)
    with serving(collection) as served:
        page = open_page(address(served))
        begin(page)
        until(page, "document.querySelector('video')?.currentTime > 0.3")
        assert page.evaluate("document.querySelector('video').webkitAudioDecodedByteCount") > 0
        assert page.evaluate("document.querySelector('video').muted") is False
        seen = []
        for _ in range(2):
            page.keyboard.press("Space")
            until(page, "document.querySelector('video').paused")
            now, roll, picture = page.evaluate(
                """() => [document.querySelector("video").currentTime,
                Number(document.querySelector("canvas").dataset.seconds),
                document.querySelector("canvas").toDataURL()]"""
            )
            assert roll == pytest.approx(now, abs=0.02)
            seen.append((now, picture))
            page.keyboard.press("Space")
            until(page, f"document.querySelector('video').currentTime > {now + 0.3}")
        assert seen[0][0] < seen[1][0]
        assert seen[0][1] != seen[1][1]
        page.keyboard.press("r")
        until(page, "document.querySelector('video').currentTime < 0.4")
        until(page, "document.querySelector('video').ended")
        assert page.get_attribute("canvas[data-seconds] >> nth=0", "data-seconds") == "2.00"
        box = page.locator("canvas >> nth=0").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
        until(page, "document.querySelector('video').currentTime < 1.2")


def test_sound_alone_or_notes_alone(tmp_path, open_page, monkeypatch):
    pytest.importorskip("fluidsynth", exc_type=ImportError)
    collection = make_collection(tmp_path, segments=2, video=False)
    with serving(collection) as served:
        page = open_page(address(served))
        begin(page)
        until(page, "document.querySelector('audio')?.currentTime > 0.2")
        until(page, "document.querySelector('canvas').dataset.seconds > 0.2")

        def refuse(*_):
            raise ImportError("no library")

        monkeypatch.setattr("piano.recording.write_sound", refuse)
        press(page, "5", "Enter")
        until(page, "document.querySelector('.note').innerText.includes('FluidSynth')")
        assert page.locator("audio, video").count() == 0
        assert "4 notes due" in page.get_attribute("canvas[aria-label] >> nth=0", "aria-label")
        press(page, "6", "Enter")
        assert len(scores_of(served)) == 2


def test_colors_can_be_told_apart_in_light_and_dark(served, open_page):
    def luminance(color: str) -> float:
        digits = color.strip().lstrip("#")
        digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in ("light", "dark"):
        page = open_page(address(served), color_scheme=scheme)
        of = {
            name: luminance(
                page.evaluate(f"getComputedStyle(document.body).getPropertyValue('--{name}')")
            )
            for name in (
                "paper",
                "ink",
                "muted",
                "due",
                "due-fill",
                "played",
                "wrong",
                "good",
                "marked",
            )
        }

        def contrast(one: str, other: str, of: dict[str, float] = of) -> float:
            return (max(of[one], of[other]) + 0.05) / (min(of[one], of[other]) + 0.05)

        for ink in ("ink", "muted", "wrong", "good"):
            assert contrast(ink, "paper") > 4.5, (scheme, ink)
        for bar, ground in (
            ("due", "paper"),
            ("played", "paper"),
            ("played", "due-fill"),
            ("played", "marked"),
        ):
            assert contrast(bar, ground) > 3, (scheme, bar, ground)


# --- Nothing is lost -------------------------------------------------------------------------


def test_a_reload_in_the_middle_goes_on(served, open_page):
    page = open_page(address(served))
    begin(page)
    press(page, "4", "4", "Enter")
    following = press(page, "s")
    page.reload()
    until(page, "!document.getElementById('question').hidden")
    assert shown(page) == following
    assert page.inner_text("#rater") == "Ana"
    assert page.inner_text("#count") == "2 of 6 answered"


def test_what_cannot_be_saved_stays_on_the_page(collection, open_page):
    with serving(collection) as served:
        page = open_page(address(served))
        begin(page)
        first = shown(page)
    page.keyboard.press("c")
    page.keyboard.type("too loud")
    page.keyboard.press("Escape")
    for key in ("3", "7", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#error:not([hidden])")
    assert "Not saved, please try again. The server does not answer." in page.inner_text("#error")
    assert (shown(page), page.input_value("#score")) == (first, "37")
    assert page.input_value("#comment") == "too loud"
    with serving(collection, port=served.port) as again:
        press(page, "Enter")
        assert page.is_hidden("#error")
        assert scores_of(again) == {first: 37}
        assert again.ratings.ratings()[0].comment == "too loud"


def test_two_raters_and_their_agreement(tmp_path, open_page):
    with serving(make_collection(tmp_path, segments=3)) as served:
        rate_as_two(served, open_page(address(served)), open_page(address(served)))


def rate_as_two(served: Served, ana: Any, bob: Any) -> None:
    begin(ana)
    begin(bob, "Bob")
    for page, rater in ((ana, ANA), (bob, BOB)):
        for answer in range(3):
            press(page, *str(10 + 10 * int(shown(page))), "Enter")
            assert len(served.ratings.answered(rater.name)) == answer + 1
    assert len(served.ratings.ratings()) == 6
    ana.click("summary")
    until(ana, "document.getElementById('agreed').innerText.length > 0")
    assert ana.inner_text("#agreed").startswith(
        "2 people share 3 performances. Krippendorff's alpha: 1.00. "
        "Spearman's rank correlation: 1.00."
    )
    ana.click("#change")
    ana.fill("#name", "Cem")
    ana.keyboard.press("Enter")
    understand(ana)
    until(ana, "document.getElementById('count').innerText === '0 of 3 answered'")
    ana.reload()
    until(ana, "document.getElementById('rater').innerText === 'Cem'")


def test_the_name_of_the_command_holds_until_it_is_changed(collection, open_page):
    with serving(collection, rater="Ana") as served:
        page = open_page(address(served))
        until(page, "document.getElementById('rater').innerText === 'Ana'")
        understand(page)
        page.click("#change")
        page.fill("#name", "Bob")
        page.keyboard.press("Enter")
        understand(page)
        until(page, "document.getElementById('rater').innerText === 'Bob'")
        page.reload()
        until(page, "document.getElementById('rater').innerText === 'Bob'")
    with serving(collection, rater="Cem", port=served.port):
        page.reload()
        until(page, "document.getElementById('rater').innerText === 'Cem'")


# --- Pairs -----------------------------------------------------------------------------------


def test_pairs_by_keyboard(served, open_page):
    page = open_page(address(served, "/?mode=pairs"))
    begin(page)
    assert page.inner_text("#task") == "Which is played better?"
    left, right = (page.locator(".player").nth(number).bounding_box() for number in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    # The second is heard after the first.
    until(page, "document.querySelectorAll('.player')[0].dataset.playing === 'true'")
    until(page, "document.querySelectorAll('.player')[1].dataset.playing === 'true'")
    assert page.evaluate("document.querySelectorAll('video')[0].ended")
    given = []
    keys = {
        "1": "first",
        "a": "first",
        "2": "second",
        "b": "second",
        "0": "neither",
        "N": "neither",
    }
    for key, preferred in keys.items():
        given.append((*shown(page).split(","), preferred))
        press(page, key)
        held = [(one.first, one.second, one.preferred) for one in served.ratings.comparisons()]
        assert held == given
    assert press(page, "z") == ",".join(given[-1][:2])
    press(page, "ArrowLeft")
    assert page.get_attribute("#neither", "aria-pressed") == "true"
    assert page.inner_text("#neither") == "Cannot tell"
    press(page, "1")
    assert served.ratings.comparisons()[-1].preferred == "first"
    page.click("#single")
    understand(page)
    until(page, "document.body.dataset.mode === 'single'")
    assert page.locator("main .player:visible").count() == 1
    page.reload()
    until(page, "document.body.dataset.mode === 'single'")


def test_a_pair_survives_a_killed_server(collection, open_page, tmp_path):
    with command(collection, tmp_path / "first") as served:
        ana, bob = (open_page(f"{served.address}?mode=pairs") for _ in range(2))
        begin(ana)
        begin(bob, "Bob")
        press(ana, "1")
        press(bob, "0")
        asked = shown(ana), shown(bob)
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait(10)
        ana.keyboard.press("2")
        ana.wait_for_selector("#error:not([hidden])")
        assert "Not saved, please try again." in ana.inner_text("#error")
    with command(collection, tmp_path / "second", "--port", str(served.port)) as again:
        assert again.port == served.port
        bob.reload()
        until(bob, "!document.getElementById('question').hidden")
        assert (shown(ana), shown(bob)) == asked
        press(ana, "2")
        press(bob, "1")
        assert ana.is_hidden("#error")
        answer = end(again.process, signal.SIGTERM)
    assert (answer["comparisons"], answer["ties"]) == (4, 1)
    with contextlib.closing(Ratings(collection.ratings, [])) as ratings:
        held = [(*one[:3], one.preferred) for one in ratings.comparisons()]
    assert held[2:] == [
        (ANA, *asked[0].split(","), "second"),
        (BOB, *asked[1].split(","), "first"),
    ]


def test_ties_are_counted_and_the_end_says_what_comes_next(tmp_path, open_page):
    following = "pianist cpl 'my run' --load-checkpoint 'my run'"
    with serving(make_collection(tmp_path, segments=3), next_command=following) as served:
        page = open_page(address(served, "/?mode=pairs"))
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        begin(page)
        while shown(page):
            press(page, "n")
        page.wait_for_selector("#finish:not([hidden])")
        assert page.inner_text("#task") == "Thank you: more answers would hardly change the order."
        results = page.inner_text("#results")
        assert "You have compared 3 pairs. In 3 you could not tell." in results
        assert page.inner_text("#command") == following
        assert page.locator("main .player:visible, #closeup:visible").count() == 0
        page.focus("#copy")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('copied').innerText === 'Copied.'")
        assert page.evaluate("navigator.clipboard.readText()") == following
        # Where the clipboard is out of reach, the command is selected.
        page.evaluate(
            "() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }"
        )
        page.click("#copy")
        until(page, "document.getElementById('copied').innerText.startsWith('Press Ctrl+C')")
        assert page.evaluate("String(getSelection())") == following
        press(page, "z")  # An answer can still be taken back.
        assert page.is_hidden("#finish")


# --- Listening closely -----------------------------------------------------------------------


def assert_loops(page: Any, begin: float, end: float) -> None:
    """Plays on and on between two times."""
    seen: list[float] = []
    stop = time.monotonic() + 15
    while sum(later < before for before, later in itertools.pairwise(seen)) < 2:
        assert time.monotonic() < stop, seen
        seen.append(page.evaluate("document.querySelector('main video').currentTime"))
        page.wait_for_timeout(30)
    assert min(seen[1:]) >= begin - 0.1
    assert max(seen[1:]) <= end + 0.2
    assert page.get_attribute("main .player >> nth=0", "data-playing") == "true"


def test_a_part_is_marked_repeated_and_slowed_down_by_keyboard(tmp_path, open_page):
    with serving(make_collection(tmp_path, segments=2, steps=60)) as served:
        page = open_page(address(served))
        begin(page)
        video = "document.querySelector('main video')"
        until(page, f"{video}?.currentTime > 0.5")
        page.keyboard.press("i")
        until(page, f"{video}.currentTime > 1.2")
        page.keyboard.press("o")
        from_, _, to, *words = page.inner_text("#marked").split()
        assert " ".join(words) == "s are played again and again."
        assert 0.4 < float(from_) < 0.9
        assert 1.1 < float(to) < 1.7
        assert_loops(page, float(from_), float(to))
        page.keyboard.press("h")
        assert page.get_attribute("#half", "aria-pressed") == "true"
        assert page.evaluate(f"{video}.playbackRate") == 0.5
        page.keyboard.press("r")
        until(page, f"{video}.currentTime < {float(from_) + 0.2}")
        page.keyboard.press("u")
        assert page.inner_text("#marked") == ""
        until(page, f"{video}.ended", 20)
        # The next question is heard as it is.
        page.keyboard.press("i")
        press(page, "5", "Enter")
        assert page.inner_text("#marked") == ""
        until(page, f"{video}?.playbackRate === 1")


def test_a_mark_holds_for_both_of_a_pair(tmp_path, open_page):
    with serving(make_collection(tmp_path, segments=2, steps=40)) as served:
        page = open_page(address(served, "/?mode=pairs"))
        begin(page)
        until(page, "document.querySelector('main video')?.currentTime > 0.2")
        box = page.locator("main canvas").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 30, steps=5)
        page.mouse.up()
        begin_, _, end, *_ = page.inner_text("#marked").split()
        page.click("main .player:nth-of-type(2) .play")
        second = "document.querySelectorAll('main video')[1]"
        until(page, f"!{second}.paused && {second}.currentTime >= {float(begin_)}")
        assert page.evaluate("document.querySelectorAll('main video')[0].paused")
        for _ in range(20):
            now = page.evaluate(f"{second}.currentTime")
            assert float(begin_) - 0.1 <= now <= float(end) + 0.2
            page.wait_for_timeout(50)
        assert served.ratings.comparisons() == []


def test_the_volume_is_remembered(served, open_page):
    page = open_page(address(served))
    begin(page)
    until(page, "document.querySelector('main video')?.currentTime > 0")
    for _ in range(6):
        page.keyboard.press("-")
    page.keyboard.press("+")
    assert page.input_value("#volume") == "75"
    assert page.evaluate("document.querySelector('main video').volume") == 0.75
    page.focus("#volume")
    page.keyboard.press("ArrowUp")  # Here it is no score.
    assert (page.input_value("#volume"), page.input_value("#score")) == ("80", "")
    page.reload()
    until(page, "document.querySelector('main video')?.volume === 0.8")
    page.click("#pairs")
    understand(page)
    until(page, "document.querySelectorAll('main video').length === 2")
    volumes = "[...document.querySelectorAll('main video')].map((one) => one.volume)"
    assert page.evaluate(volumes) == [0.8, 0.8]


def test_where_the_judged_part_begins_is_shown(tmp_path, open_page):
    with serving(make_collection(tmp_path, segments=2, steps=30, lead_in=20)) as served:
        page = open_page(address(served))
        begin(page)
        label = page.get_attribute("main canvas[aria-label] >> nth=0", "aria-label")
        assert label.endswith("in 2.5 seconds; the first 1.0 are not judged")
        phase = page.locator("main .phase").first
        until(page, "document.querySelector('main video')?.currentTime > 0.1")
        assert phase.inner_text() == "lead-in"
        until(page, "document.querySelector('main video').currentTime > 1.05")
        until(page, "document.querySelector('main .phase').dataset.over === 'true'")
        assert not phase.is_visible()
        page.keyboard.press("r")
        until(page, "document.querySelector('main .phase').dataset.over === 'false'")


# --- What is asked, and how ------------------------------------------------------------------


def test_the_instruction_has_examples_and_comes_once(served, open_page):
    for number, score in enumerate((90, 30, 70, 10, 50)):
        served.rate(f"{number:04d}", score, BOB)
    page = open_page(address(served))
    give_name(page)
    page.wait_for_selector("#examples:not([hidden])")
    assert page.locator("dialog h3").all_inner_texts()[1:] == ["About a 20", "About an 80"]
    until(page, "document.querySelectorAll('dialog video').length === 2")
    playing = "[...document.querySelectorAll('dialog .player')].map((one) => one.dataset.playing)"
    assert page.evaluate("document.querySelector('main video').paused")
    for index, wanted in enumerate((["true", "false"], ["false", "true"])):
        play = f"document.querySelectorAll('dialog .play')[{index}]"
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement === {play}"):
                break
        page.keyboard.press("Enter")
        until(page, f"{playing}.join() === '{','.join(wanted)}'")
    page.keyboard.press("7")  # Nothing is scored from here.
    assert page.input_value("#score") == ""
    page.keyboard.press("Escape")
    until(page, "document.querySelector('main video').currentTime > 0")
    assert page.locator("dialog video").count() == 0
    page.reload()
    until(page, "document.querySelector('main video')?.currentTime > 0")
    assert page.is_hidden("#instruction")
    page.keyboard.press("?")
    page.wait_for_selector("#instruction[open]")
    assert page.evaluate("document.querySelector('main video').paused")
    page.keyboard.press("Escape")
    page.click("#pairs")
    page.wait_for_selector("#instruction[open]")
    assert "If you cannot tell, say so" in page.inner_text("#advice")
    assert page.is_hidden("#examples")


def test_an_attribute_is_asked_for_by_its_name(collection, open_page):
    with serving(collection, attribute="even", rater="Ana") as served:
        page = open_page(address(served))
        page.wait_for_selector("#instruction[open]")
        assert "for how even it is" in page.inner_text("#advice")
        understand(page)
        assert page.inner_text("#task") == "How even is this?"
        assert page.inner_text(".ends").split("\n") == ["1: not at all", "100: fully"]
        press(page, "4", "0", "Enter")
        assert [one.score for one in served.ratings.ratings("even")] == [40]
        assert served.ratings.ratings() == []
        page.click("#pairs")
        understand(page)
        assert page.inner_text("#task") == "Which is more even?"
        press(page, "1")
        assert len(served.ratings.comparisons("even")) == 1
        before = shown(page)
        open_page.expected.append("status of 400")
    with serving(collection, port=served.port) as other:
        page.keyboard.press("1")  # The page is still about the attribute.
        until(page, "document.getElementById('error').innerText.includes('reload it')")
        assert shown(page) == before
        assert other.ratings.comparisons() == []


def test_what_is_asked_again_looks_like_any_other_question(tmp_path, open_page):
    with serving(make_collection(tmp_path, segments=10, passages=2)) as served:
        page = open_page(address(served))
        begin(page)
        assert page.inner_text("#count") == "0 of 11 answered"
        assert page.inner_text("#passage") in ("Passage 1 of 2", "Passage 2 of 2")
        given: dict[str, int] = {}
        while len(given) < 10:
            given[shown(page)] = 30 + len(given)
            press(page, *str(30 + len(given) - 1), "Enter")
        again = shown(page)
        assert again in given
        assert page.input_value("#score") == ""
        assert page.inner_text("#correcting") == ""
        assert page.inner_text("#task") == "How well is this played?"
        press(page, "9", "0", "Enter")
        assert scores_of(served) == given
        page.wait_for_selector("#finish:not([hidden])")
        assert page.inner_text("#count") == "11 of 11 answered"
        assert (
            f"1 performance came twice: your two scores differ by {90 - given[again]} points on "
            "average, scores of different performances by 3.7 points."
        ) in page.inner_text("#results")
        assert press(page, "z") == again
        assert page.input_value("#score") == ""


# --- On a phone ------------------------------------------------------------------------------


def assert_fits(page: Any, width: int) -> None:
    """Nothing is wider than the screen, and everything can be hit by a finger."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getElementById('instruction').scrollWidth") <= width
    small = page.evaluate(
        """[...document.querySelectorAll("button, [type=range], summary")].filter((one) => {
            const {width, height} = one.getBoundingClientRect();
            return height > 0 && (height < 40 || width < 40);
        }).map((one) => one.id || one.className)"""
    )
    assert small == []


@pytest.mark.parametrize("phone", PHONES, ids=lambda phone: str(phone["width"]))
def test_a_phone_needs_no_sideways_scrolling(served, open_page, phone):
    for number, score in enumerate((90, 30, 70, 10, 50)):  # Which give examples.
        served.rate(f"{number:04d}", score, BOB)
    page = open_page(address(served), phone, **TOUCH)
    width = phone["width"]
    page.wait_for_selector("#naming:not([hidden])")
    assert_fits(page, width)
    page.fill("#name", "A" * 60)
    page.tap("#naming button")
    page.wait_for_selector("#examples:not([hidden])")
    until(page, "document.querySelectorAll('dialog video').length === 2")
    assert_fits(page, width)
    page.tap("#understood")
    until(page, "document.querySelector('video')?.currentTime > 0.1")
    assert_fits(page, width)
    first = shown(page)
    page.tap("#mark-begin")
    page.tap("#half")
    assert_fits(page, width)
    page.fill("#score", "64")  # As the keypad on the screen does.
    page.tap("#more")
    page.tap("#save")
    until(page, f"document.getElementById('question').dataset.segments !== '{first}'")
    assert {one.segment: one.score for one in served.ratings.ratings() if one.rater != BOB} == {
        first: 65
    }
    assert page.evaluate("scrollY") == 0
    assert_fits(page, width)
    page.tap("#pairs")
    understand(page)
    until(page, "document.querySelectorAll('main video').length === 2")
    assert_fits(page, width)
    above, below = (page.locator("main .player").nth(at).bounding_box() for at in (0, 1))
    assert above["y"] + above["height"] <= below["y"]
    page.tap("#second")
    until(page, "document.getElementById('count').innerText.startsWith('1 of')")
    assert served.ratings.comparisons()[0].preferred == "second"
    page.tap("#single")
    while shown(page):
        page.tap("#skip")
        until(page, "!document.body.hasAttribute('aria-busy')")
    page.wait_for_selector("#finish:not([hidden])")
    assert_fits(page, width)


def test_a_part_is_marked_by_finger(tmp_path, open_page):
    with serving(make_collection(tmp_path, segments=2, steps=40)) as served:
        page = open_page(address(served), PHONES[1], **TOUCH)
        page.fill("#name", "Ana")
        page.tap("#naming button")
        page.tap("#understood")
        until(page, "document.querySelector('main video')?.currentTime > 0.1")
        canvas = page.locator("main canvas").first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        height = box["y"] + box["height"] / 2
        session = page.context.new_cdp_session(page)

        def touch(kind: str, *share: float) -> None:
            points = [{"x": box["x"] + at * box["width"], "y": height} for at in share]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 0.4)
        for step in range(10):
            touch("touchMove", 0.4 + 0.02 * step)
        touch("touchEnd")
        until(page, "document.getElementById('marked').innerText !== ''")
        begin, end = (float(word) for word in page.inner_text("#marked").split()[0:3:2])
        assert begin == pytest.approx(2 * (0.4 * box["width"] - 30) / (box["width"] - 30), abs=0.1)
        assert 0.3 < end - begin < 0.5
        assert_loops(page, begin, end)
        page.tap("#unmark")
        assert page.inner_text("#marked") == ""
        assert page.is_disabled("#unmark")


# --- Strangers -------------------------------------------------------------------------------


def test_the_token_lets_in_and_goes_out_of_sight(collection, open_page):
    open_page.expected.append("status of 403")
    with serving(collection, Guard("0.0.0.0", TOKEN)) as served:
        for stranger in ("/", "/?token=guess-and-guess"):
            page = open_page(address(served, stranger))
            assert "the token is missing or wrong" in page.inner_text("body")
        page = open_page(address(served, f"/?token={TOKEN}"))
        begin(page)
        assert page.url == address(served)
        press(page, "5", "0", "Enter")
        assert page.evaluate("document.cookie") == ""
        until(page, "document.querySelector('video')?.currentTime > 0.1")
        page.reload()
        until(page, "!document.getElementById('question').hidden")
        assert len(scores_of(served)) == 1


def test_a_link_in_another_site_s_page_lets_in(collection, open_page):
    with serving(collection, Guard("0.0.0.0", TOKEN)) as served:
        page = open_page("about:blank")
        page.set_content(f'<a href="{address(served, f"/?token={TOKEN}")}">Rate</a>')
        page.click("a")
        begin(page)
        assert page.url == address(served)
