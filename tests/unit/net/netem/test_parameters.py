"""The parameters of a netem as people write them: units, what is refused, and how they are shown."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnic.net.errors import NetError
from vnic.net.netem import units
from vnic.net.netem.parameters import NOTHING, Parameters, changed, shown
from vnic.record import RecordError, decode, encode


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("10ms", 10_000_000),
        ("1.5s", 1_500_000_000),
        ("2 secs", 2_000_000_000),
        ("250us", 250_000),
        ("250µs", 250_000),
        ("0.1us", 100),
        ("7ns", 7),
        ("0", 0),
        ("0s", 0),
        ("3600s", units.MAX_TIME_NS),
        ("1e-3s", 1_000_000),
    ],
)
def test_times(text: str, ns: int) -> None:
    assert units.parse_time("delay", text) == ns


@pytest.mark.parametrize("text", ["10", "", "ms", "-1ms", "3601s", "1h", "10ms5", "1e99s", "nan", "1_0ms"])
def test_bad_times_are_refused_with_the_value(text: str) -> None:
    with pytest.raises(NetError) as refused:
        units.parse_time("delay", text)
    assert refused.value.desc == (
        f"Parameter 'delay' expects a time with its unit, from 0 to 3600s, as 10ms, not '{text}'"
    )


@pytest.mark.parametrize(
    ("text", "part"), [("100%", units.ALL), ("100", units.ALL), ("0.5%", 21474836), ("0", 0), ("1e-05%", 429)]
)
def test_percentages(text: str, part: int) -> None:
    """tc's rint(percent * 2**32 - 1)."""
    assert units.parse_percent("loss", text) == part


@pytest.mark.parametrize("text", ["101%", "-1", "", "5ms", "5%%"])
def test_bad_percentages_are_refused(text: str) -> None:
    with pytest.raises(NetError, match=r"^Parameter 'loss' expects a percentage from 0% to 100%, not "):
        units.parse_percent("loss", text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10mbit", 1_250_000),
        ("10Mbit", 1_250_000),
        ("8bit", 1),
        ("1kbps", 1000),
        ("1KiBps", 1024),
        ("1mibit", 131_072),
        ("1.5gbit", 187_500_000),
        ("8tbit", units.MAX_RATE),
        ("0", 0),
        ("0bit", 0),
    ],
)
def test_rates(text: str, rate: int) -> None:
    assert units.parse_rate("rate", text) == rate


@pytest.mark.parametrize("text", ["10", "", "1bit", "9tbit", "10mbits", "mbit", "-5mbit"])
def test_bad_rates_are_refused(text: str) -> None:
    with pytest.raises(NetError, match=r"^Parameter 'rate' expects a rate with its unit, from 8bit to 8tbit"):
        units.parse_rate("rate", text)


def test_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(NetError) as refused:
        units.parse_time("delay", "9" * 5000)
    assert len(refused.value.desc) < 200


@given(st.integers(0, units.MAX_TIME_NS))
def test_shown_time_is_the_same_time(ns: int) -> None:
    assert units.parse_time("delay", units.show_time(ns)) == ns


@given(st.integers(0, units.MAX_RATE))
def test_shown_rate_is_the_same_rate(rate: int) -> None:
    assert units.parse_rate("rate", units.show_rate(rate)) == rate


@pytest.mark.parametrize(
    ("given_", "desc"),
    [
        ({"loss-correlation": "5%"}, "Parameter 'loss-correlation' needs 'loss'"),
        ({"delay": "5ms", "delay-correlation": "5%"}, "Parameter 'delay-correlation' needs 'jitter'"),
        ({"delay": "5ms", "distribution": "normal"}, "Parameter 'distribution' needs 'jitter'"),
        ({"reorder": "5%"}, "Parameter 'reorder' needs 'delay'"),
        ({"gap": 5}, "Parameter 'gap' needs 'delay'"),
        ({"delay": "1ms", "reorder-correlation": "5%"}, "Parameter 'reorder-correlation' needs 'reorder'"),
        ({"limit": 0}, "Parameter 'limit' expects a number from 1 to 1000000, not '0'"),
        ({"limit": True}, "Parameter 'limit' expects a number from 1 to 1000000, not 'True'"),
        ({"max-frame": -1}, "Parameter 'max-frame' expects a number from 0 to 4294967295, not '-1'"),
        ({"loss": None}, "Invalid parameter type for 'loss', expected: string"),
        (
            {"distribution": "flat"},
            "Parameter 'distribution' expects uniform, normal, pareto or paretonormal, not 'flat'",
        ),
    ],
)
def test_what_cannot_be_is_refused(given_: dict[str, object], desc: str) -> None:
    with pytest.raises(NetError) as refused:
        changed(NOTHING, given_)
    assert refused.value.desc == desc


def test_a_change_leaves_the_rest() -> None:
    first = changed(NOTHING, {"delay": "10ms", "jitter": "2ms", "distribution": "pareto", "loss": 0.5})
    second = changed(first, {"delay": "20ms", "rate": "10mbit", "limit": "50"})
    assert second.text() == "delay 20ms jitter 2ms distribution pareto, loss 0.5%, rate 10mbit, limit 50"
    assert changed(second, shown(second)) == msgspec.structs.replace(second, loss=second.loss)
    with pytest.raises(NetError, match=r"^Parameter 'distribution' needs 'jitter'$"):
        changed(second, {"jitter": "0"})


def test_gap_and_reorder_imply_each_other() -> None:
    """As in the kernel: `reorder` alone is gap 1, and `gap` alone is 100 %."""
    delayed = changed(NOTHING, {"delay": "1ms"})
    assert delayed.reordering == (0, 0)
    assert changed(delayed, {"reorder": "50%"}).reordering == (1, units.parse_percent("reorder", "50%"))
    assert changed(delayed, {"gap": 5}).reordering == (5, units.ALL)


def test_gate_only_loses() -> None:
    assert changed(NOTHING, {"loss": "100%"}).is_gate
    assert changed(NOTHING, {"max-frame": 1400}).is_gate
    assert not changed(NOTHING, {"loss": "99%"}).is_gate
    assert not changed(NOTHING, {"loss": "100%", "delay": "1ms"}).is_gate


def test_record_that_makes_no_sense_is_refused() -> None:
    text = encode(changed(NOTHING, {"delay": "5ms", "jitter": "1ms", "distribution": "normal"}))
    with pytest.raises(RecordError, match="needs 'jitter'"):
        decode(Parameters, text.replace(b'"jitter":1000000', b'"jitter":0'))
