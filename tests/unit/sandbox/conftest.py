"""The monitor's client, for the commands that ask which paths it may name."""

from __future__ import annotations

from tests.unit.monitor.conftest import client

__all__ = ["client"]
