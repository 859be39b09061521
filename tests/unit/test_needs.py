"""Needs of tests skip by name, or fail where all parts are demanded."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import needs, places
from tests.needs import NEEDS, Need, need


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "there", Need(lambda: True, "what is there", "nothing"))
    monkeypatch.setitem(NEEDS, "gone", Need(lambda: None, "a tool", "apt-get install it"))
    needs.is_met.cache_clear()


def test_what_is_there_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNIC_REQUIRE_GUESTS", "1")
    need("there")


def test_what_is_missing_skips_by_name_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VNIC_REQUIRE_GUESTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^this machine lacks a tool \(apt-get install it\)$"):
        need("there", "gone")


def test_what_is_demanded_and_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNIC_REQUIRE_GUESTS", "1")
    with pytest.raises(pytest.fail.Exception, match=r"lacks a tool \(apt-get install it\), and VNIC_REQUIRE"):
        need("gone")


def test_what_not_every_machine_can_have_is_not_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNIC_REQUIRE_GUESTS", "1")
    monkeypatch.setitem(NEEDS, "rare", Need(lambda: None, "a kernel", "build it", demanded=False))
    with pytest.raises(pytest.skip.Exception, match="lacks a kernel"):
        need("rare")


def test_every_check_answers() -> None:
    for name in NEEDS:
        assert isinstance(needs.is_met(name), bool)


def test_a_long_temporary_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    made = places.make_run_folder()
    assert not made.is_relative_to(long)
    assert len(str(made)) <= places.SHORT + len("/vnic-t-") + 8
    made.rmdir()
