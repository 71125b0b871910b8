"""The weather that simulated sensors measure: observed daily extremes, and the course of each day between them.

What belongs here: reading `data/weather.csv` (source and licence: `data/weather.md`) and the conditions at a station
at one moment. What does not: sensors, noise and faults (`sensors_stream.py`).
"""

from __future__ import annotations

import csv
import importlib.resources
import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

STATIONS = {"Seattle": "America/Los_Angeles", "New York": "America/New_York"}
"""Station -> IANA time zone."""

COLDEST_HOUR, WARMEST_HOUR = 6, 15  # local time; a day's minimum and maximum are reached then
DRY_AIR = 1.5  # °C by which the dew point lies below the day's minimum
FIRST_DAY = date(2012, 1, 1)


class Day(NamedTuple):
    """What was observed on one local day: mm, °C, °C, m/s."""

    precipitation: float
    highest: float
    lowest: float
    wind: float


class Conditions(NamedTuple):
    """The weather at one moment: °C, % relative humidity, hPa at sea level, m/s, and daylight from 0 to 1."""

    temperature: float
    humidity: float
    pressure: float
    wind: float
    daylight: float


@dataclass(frozen=True)
class Station:
    """Four observed years at one place, replayed for ever: 1,461 days keep every calendar date where it was.

    Attributes:
        phase: radians by which the station's pressure waves are shifted.
    """

    name: str
    zone: ZoneInfo
    days: tuple[Day, ...]
    phase: float

    def at(self, moment: datetime) -> Conditions:
        """The conditions at `moment` (with a time zone)."""
        local = moment.astimezone(self.zone)
        hour = local.hour + local.minute / 60 + local.second / 3600
        index = (local.date() - FIRST_DAY).days
        before, today, after = (self.days[(index + offset) % len(self.days)] for offset in (-1, 0, 1))
        share = hour / 24  # daily figures glide from one day to the next, so that nothing jumps at midnight
        wet = today.precipitation + (after.precipitation - today.precipitation) * share
        temperature = _course(before, today, after, hour)
        dew_point = today.lowest + (after.lowest - today.lowest) * share - DRY_AIR
        return Conditions(
            temperature=temperature,
            humidity=min(89.0, max(12.0, _relative_humidity(temperature, dew_point))),
            pressure=_pressure(moment.timestamp() / 86400, self.phase) - min(wet, 40.0) / 5,
            wind=today.wind + (after.wind - today.wind) * share,
            daylight=max(0.0, math.sin(math.pi * (hour - 6) / 12)),
        )


def _course(before: Day, today: Day, after: Day, hour: float) -> float:
    """The temperature at a local hour: half cosines between the extremes of neighbouring days."""
    night = 24 - WARMEST_HOUR + COLDEST_HOUR
    if hour < COLDEST_HOUR:
        start, end, part = before.highest, today.lowest, (hour + 24 - WARMEST_HOUR) / night
    elif hour < WARMEST_HOUR:
        start, end, part = today.lowest, today.highest, (hour - COLDEST_HOUR) / (WARMEST_HOUR - COLDEST_HOUR)
    else:
        start, end, part = today.highest, after.lowest, (hour - WARMEST_HOUR) / night
    return start + (end - start) * (1 - math.cos(math.pi * part)) / 2


def _relative_humidity(temperature: float, dew_point: float) -> float:
    """Percent, by the Magnus formula (both arguments in °C)."""

    def vapour(celsius: float) -> float:
        return math.exp(17.625 * celsius / (243.04 + celsius))

    return 100 * vapour(dew_point) / vapour(temperature)


def _pressure(day: float, phase: float) -> float:
    """hPa: two waves of some days' length around the mean, as highs and lows pass."""
    return 1015 + 7 * math.sin(2 * math.pi * day / 5.3 + phase) + 4 * math.sin(2 * math.pi * day / 2.3 + 2 * phase)


def stations() -> dict[str, Station]:
    """The stations of `data/weather.csv`, by name."""
    days: dict[str, list[Day]] = {name: [] for name in STATIONS}
    text = importlib.resources.files(__package__).joinpath("data/weather.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        observed = days[row["location"]]
        if date.fromisoformat(row["date"]) != FIRST_DAY + timedelta(days=len(observed)):
            raise ValueError(f"weather.csv: {row['location']} has a gap before {row['date']}")
        figures = (row[name] for name in ("precipitation", "temp_max", "temp_min", "wind"))
        observed.append(Day(*map(float, figures)))
    return {
        name: Station(name, ZoneInfo(zone), tuple(days[name]), phase=float(number))
        for number, (name, zone) in enumerate(STATIONS.items())
    }
