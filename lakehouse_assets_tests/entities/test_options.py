"""The block `lakehouse:` of an entity."""

from __future__ import annotations

import datetime as dt

import pytest

from lakehouse_assets_tests.entities.lab import entity, refused


@pytest.mark.parametrize(
    ("options", "legal"),
    [
        ({"source_timezone": "Europe/Vienna"}, True),
        ({"source_timezone": "Mars/Olympus"}, False),
        ({"lookback": "90 minutes", "horizon": "2 days", "tolerance": "1 second"}, True),
        ({"lookback": "soon"}, False),
        ({"lookback": "0 days"}, False),
        ({"partitions": {"cadence": "daily", "start": "2024-01-31"}}, True),
        ({"partitions": {"cadence": "daily", "start": "31.01.2024"}}, False),
        ({"partitions": {"cadence": "secondly", "start": "2024-01-31"}}, False),
        ({"schedule": {"cron": "44 7 * * 1-5", "timezone": "Europe/Amsterdam"}}, True),
        ({"schedule": {"cron": "@daily"}}, True),
        ({"schedule": {"cron": "*/15 * * * *"}}, True),
        ({"schedule": {"cron": "61 * * * *"}}, False),
        ({"schedule": {"cron": "44 37 8 * * ?"}}, False),
        ({"owners": ["team:edge", "a@example.org"]}, True),
        ({"owners": ["edge"]}, False),
        ({"evolution": "rescue", "writers": "spark", "cluster_by": ["a"]}, True),
        ({"evolution": "guess"}, False),
        ({"feed": "a/b"}, False),
        ({"columns": {"id": "the key"}}, True),
    ],
    ids=str,
)
def test_the_block_of_this_project(options, legal):
    """Design §3: what the seed's fields do not hold stands in one strict block."""
    if legal:
        assert entity(lakehouse=options).lakehouse
    else:
        assert refused(lakehouse=options)


def test_durations_are_time_deltas():
    """Durations in words come out as `timedelta`."""
    options = entity(lakehouse={"lookback": "1 day 12 hours", "freshness": {"warn": "90 minutes"}}).lakehouse
    assert options.lookback_delta == dt.timedelta(days=1, hours=12)
    assert options.horizon_delta is None
    assert options.freshness is not None
    assert options.freshness.warn_delta == dt.timedelta(minutes=90)
    assert options.freshness.fail_delta is None
