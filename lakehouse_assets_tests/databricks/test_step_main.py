"""The entry on the cluster: how events are sent back. Its checks are tested with the package."""

from __future__ import annotations

import gzip
import shutil
import time
from pathlib import Path

import pytest
from dagster._serdes import deserialize_value

from lakehouse_assets.databricks import step_main


def sent(place: Path) -> list[str]:
    """What stands in the files, in their order."""
    files = sorted(place.glob("events-0-*"))
    assert [file.name for file in files] == [step_main.events_file(0, number) for number in range(len(files))]
    return [text for file in files for text in deserialize_value(gzip.decompress(file.read_bytes()).decode(), list)]


def test_events_come_in_order_and_once(tmp_path: Path) -> None:
    """Every event stands in one file, in the order in which they came."""
    events = step_main.Events(tmp_path, 0)
    for number in range(5):
        events.put(str(number))
        time.sleep(0.3)
    events.close()
    assert sent(tmp_path) == ["0", "1", "2", "3", "4"]


def test_a_directory_that_is_gone_for_a_while_loses_no_event(tmp_path: Path) -> None:
    """What could not be written waits, and no number is taken twice."""
    place = tmp_path / "staging"
    place.mkdir()
    events = step_main.Events(place, 0)
    events.put("before")
    time.sleep(1.5)
    shutil.move(place, tmp_path / "away")
    events.put("meanwhile")
    time.sleep(2.5)
    shutil.move(tmp_path / "away", place)
    events.put("after")
    events.close()
    assert sent(place) == ["before", "meanwhile", "after"]


def test_what_cannot_be_sent_in_the_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step whose events are lost is not a success."""
    monkeypatch.setattr(step_main, "LAST_SECONDS", 0.1)
    events = step_main.Events(tmp_path / "never", 0)
    events.put("lost")
    with pytest.raises(OSError, match="No such file"):
        events.close()
