"""The rating page in a real browser, used as people use it: by keyboard, by touch, by reload."""

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from collections_for_tests import make_collection
from test_rate_page import ANA, BOB, TOKEN, Served, serving

from rlhf.collection import Collection
from rlhf.rate_page.guard import Guard

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: sudo apt-get install chromium"
)
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
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


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
    """Gives a name by keyboard; the field has the focus."""
    page.wait_for_selector("#naming:not([hidden])")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#question:not([hidden])")


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
        assert page.get_attribute("canvas >> nth=0", "data-seconds") == "2.00"
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

        monkeypatch.setattr("actors.recording.write_sound", refuse)
        press(page, "5", "Enter")
        until(page, "document.querySelector('.note').innerText.includes('FluidSynth')")
        assert page.locator("audio, video").count() == 0
        assert "4 notes due" in page.get_attribute("canvas >> nth=0", "aria-label")
        press(page, "6", "Enter")
        assert len(scores_of(served)) == 2


def test_colours_can_be_told_apart_in_light_and_dark(served, open_page):
    def luminance(colour: str) -> float:
        digits = colour.strip().lstrip("#")
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
            for name in ("paper", "ink", "muted", "due", "due-fill", "played", "wrong", "good")
        }

        def contrast(one: str, other: str, of: dict[str, float] = of) -> float:
            return (max(of[one], of[other]) + 0.05) / (min(of[one], of[other]) + 0.05)

        for ink in ("ink", "muted", "wrong", "good"):
            assert contrast(ink, "paper") > 4.5, (scheme, ink)
        for bar, ground in (("due", "paper"), ("played", "paper"), ("played", "due-fill")):
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
    until(ana, "document.getElementById('count').innerText === '0 of 3 answered'")
    ana.reload()
    until(ana, "document.getElementById('rater').innerText === 'Cem'")


def test_the_name_of_the_command_holds_until_it_is_changed(collection, open_page):
    with serving(collection, rater="Ana") as served:
        page = open_page(address(served))
        until(page, "document.getElementById('rater').innerText === 'Ana'")
        page.click("#change")
        page.fill("#name", "Bob")
        page.keyboard.press("Enter")
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
    press(page, "1")
    assert served.ratings.comparisons()[-1].preferred == "first"
    page.click("#single")
    until(page, "document.body.dataset.mode === 'single'")
    assert page.locator(".player:visible").count() == 1
    page.reload()
    until(page, "document.body.dataset.mode === 'single'")


# --- On a phone ------------------------------------------------------------------------------


def test_a_phone_needs_no_sideways_scrolling(served, open_page):
    page = open_page(address(served), PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)

    def assert_fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        small = page.evaluate(
            """[...document.querySelectorAll("button, #slider, summary")].filter((one) => {
                const {width, height} = one.getBoundingClientRect();
                return height > 0 && (height < 40 || width < 40);
            }).map((one) => one.id || one.className)"""
        )
        assert small == []

    page.wait_for_selector("#naming:not([hidden])")
    assert_fits()
    page.fill("#name", "A" * 60)
    page.tap("#naming button")
    until(page, "document.querySelector('video')?.currentTime > 0.1")
    assert_fits()
    first = shown(page)
    page.fill("#score", "64")  # As the keypad on the screen does.
    page.tap("#more")
    page.tap("#save")
    until(page, f"document.getElementById('question').dataset.segments !== '{first}'")
    assert scores_of(served) == {first: 65}
    assert page.evaluate("scrollY") == 0
    assert_fits()
    page.tap("#pairs")
    until(page, "document.querySelectorAll('video').length === 2")
    assert_fits()
    above, below = (page.locator(".player").nth(number).bounding_box() for number in (0, 1))
    assert above["y"] + above["height"] <= below["y"]
    page.tap("#second")
    until(page, "document.getElementById('count').innerText.startsWith('1 of')")
    assert served.ratings.comparisons()[0].preferred == "second"


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
