"""Fixtures for tests of the automation: those of the graph."""

from __future__ import annotations

from lakehouse_assets_tests.assets.conftest import house, instance

__all__ = ["house", "instance"]
