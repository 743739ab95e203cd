"""Input that anybody may have made is read or refused; `make fuzz` has much more of it."""

import pytest
from hostile_inputs import KINDS, reading
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = {"midi": 300, "checkpoint": 100, "manifest": 300, "requests": 150}


@st.composite
def changed(draw, seeds):
    """A seed with some bytes changed, left out, or doubled."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.integers(1, 8))
        match draw(st.sampled_from(["change", "remove", "double", "cut", "insert"])):
            case "change":
                content[place : place + length] = draw(st.binary(min_size=1, max_size=length))
            case "remove":
                del content[place : place + length]
            case "double":
                content[place:place] = content[place : place + 20 * length]
            case "cut":
                del content[place:]
            case _:
                content[place:place] = draw(
                    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"[" * 5000, b"1e999", b"-1", b"NaN"])
                )
    return bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_what_anybody_may_have_made_is_read_or_refused(kind, tmp_path):
    with reading(kind, tmp_path) as (read, seeds):
        for seed in seeds:
            read(seed)

        @given(st.one_of(changed(seeds), st.binary(max_size=200)))
        @settings(
            max_examples=EXAMPLES[kind],
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        def check(content):
            read(content)

        check()
