"""Readings as they leave the sensors: the weather, each sensor's bias and noise, and what goes wrong on the way.

What belongs here: rows, anomalies and faults, drawn from a seed alone. What does not: SQLite, files, the clock
(`sensors.py`).
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby, repeat
from operator import itemgetter

from lakehouse_assets.simulators.sensors_fleet import Sensor
from lakehouse_assets.simulators.sensors_weather import Station, stations

Reading = tuple[str, int, object, object, object, object, object, int, int, str | None]
"""timestamp, index of the sensor, the five channels, status_code, anomaly_flag, anomaly_type."""

CHANNELS = ("temperature", "humidity", "pressure", "vibration", "voltage")
STEPS = (100, 10, 10, 1000, 1000)  # resolution: steps per °C, %, hPa, mm/s, V
NOISE = (0.15, 0.7, 0.2, 0.15, 0.03)  # standard deviation, in the channel's unit
POOL = 1 << 14  # noise is drawn once; every sensor then reads a stretch of it
CHUNK = 1 << 12  # the most ticks that one call may ask for

ANOMALIES: dict[str, tuple[str, float, float]] = {
    "temperature_low": ("temperature", -45.0, -21.0),
    "temperature_high": ("temperature", 61.0, 95.0),
    "humidity_low": ("humidity", 0.0, 4.5),
    "humidity_high": ("humidity", 95.5, 104.0),
    "pressure_low": ("pressure", 880.0, 948.0),
    "pressure_high": ("pressure", 1052.0, 1100.0),
    "vibration_high": ("vibration", 10.5, 40.0),
    "voltage_low": ("voltage", 5.0, 19.5),
    "voltage_high": ("voltage", 25.5, 36.0),
}
"""anomaly_type -> channel, and the range that it is drawn from: all of it outside what the channel may read."""

FAULTS = ("null_value", "text_value", "resent", "late", "dropout")
"""What goes wrong between sensor and table: a channel is NULL; a channel holds text; a reading is sent twice (equal
timestamps); a reading arrives after newer ones; a sensor is silent for a while (its readings are missing)."""

EPOCH, HOUR = datetime(1970, 1, 1, tzinfo=UTC), timedelta(hours=1)
WORDS = ("ERR", "n/a", "--", "21,5")
STATUS_OK, STATUS_ANOMALY, STATUS_FAULT = 0, 1, 2


class ReadingStream:
    """Readings of a fleet, tick by tick; at every tick each sensor reads once.

    The readings depend on the seed and the times alone, not on how many ticks are asked for at once.

    Attributes:
        anomalies: readings so far by anomaly type.
        faults: readings so far by kind of fault; for `dropout` the readings that are missing.
    """

    def __init__(self, sensors: Sequence[Sensor], seed: str, fault_rate: float, anomaly_rate: float) -> None:
        self.anomalies: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._sensors = sensors
        self._draw = random.Random(f"readings {seed}")
        self._stations = stations()
        self._event_rate = fault_rate + anomaly_rate
        self._anomaly_share = anomaly_rate / self._event_rate if self._event_rate else 0.0
        self._noise = self._make_noise(random.Random(f"noise {seed}"))
        self._bias = [
            tuple(round(bias * steps) for bias, steps in zip(sensor.bias, STEPS, strict=True)) for sensor in sensors
        ]
        self._offsets = [[self._draw.randrange(POOL) for _ in CHANNELS] for _ in sensors]
        self._tick = 0
        self._next_event = self._gap()  # counted in readings since the first tick
        self._silent_until = [0] * len(sensors)
        self._waiting: list[tuple[int, Reading]] = []  # (due tick, reading): late and sent-again readings
        self._knots: dict[tuple[str, int], tuple[float, ...]] = {}

    @staticmethod
    def _make_noise(draw: random.Random) -> list[list[int]]:
        """For each channel `POOL` deviations in steps, at most 3 standard deviations; vibration only upwards.

        The first `CHUNK` of them stand at the end again, so that a stretch can begin anywhere.
        """
        pool = [max(-3.0, min(3.0, draw.gauss(0, 1))) for _ in range(POOL)]
        pool += pool[:CHUNK]
        noise = [[round(g * deviation * steps) for g in pool] for deviation, steps in zip(NOISE, STEPS, strict=True)]
        noise[CHANNELS.index("vibration")] = [abs(steps) for steps in noise[CHANNELS.index("vibration")]]
        return noise

    def readings(self, start: datetime, interval: timedelta, ticks: int) -> list[Reading]:
        """The readings of the next `ticks` ticks (at most `CHUNK`), in the order in which they arrive.

        Args:
            start: the time of the first of these ticks, with a time zone.
            interval: the time between two ticks.
        """
        first = start.astimezone(UTC)
        moments = [first + interval * tick for tick in range(ticks)]
        rows: list[Reading | None] = list(self._clean(moments, _precision(start, interval)))
        inserts = self._disturb(rows, ticks)
        self._tick += ticks
        return _merge(rows, inserts) if inserts or None in rows else rows  # type: ignore[return-value]

    def drain(self) -> list[Reading]:
        """The readings that are still on their way when the stream ends."""
        rest = [reading for _, reading in sorted(self._waiting, key=itemgetter(0))]
        self._waiting.clear()
        return rest

    def _clean(self, moments: Sequence[datetime], precision: str) -> Iterator[Reading]:
        """Readings as they would be if nothing went wrong, tick by tick."""
        stamps = [moment.isoformat(timespec=precision) for moment in moments]
        truth = {name: self._truth(self._stations[name], moments) for name in {s.station for s in self._sensors}}
        parts = []
        for index, sensor in enumerate(self._sensors):
            values = [
                [(true + noise + bias) / steps for true, noise in zip(base, stretch, strict=True)]
                for base, stretch, bias, steps in zip(
                    truth[sensor.station], self._stretch(index, len(moments)), self._bias[index], STEPS, strict=True
                )
            ]
            ends = (repeat(STATUS_OK), repeat(0), repeat(None))
            parts.append(zip(stamps, repeat(index), *values, *ends, strict=False))
        return chain.from_iterable(zip(*parts, strict=True))

    def _stretch(self, sensor: int, ticks: int) -> Iterator[list[int]]:
        """For each channel the noise of a sensor at the next ticks."""
        for pool, offset in zip(self._noise, self._offsets[sensor], strict=True):
            first = (offset + self._tick) % POOL
            yield pool[first : first + ticks]

    def _truth(self, station: Station, moments: Sequence[datetime]) -> list[list[int]]:
        """For each channel its true value at each moment, in steps: straight lines between full hours."""
        columns: list[list[int]] = [[] for _ in CHANNELS]
        times = (divmod(moment - EPOCH, HOUR) for moment in moments)
        for hour, run in groupby(times, key=itemgetter(0)):
            parts = [rest / HOUR for _, rest in run]
            ends = zip(self._knot(station, hour), self._knot(station, hour + 1), STEPS, columns, strict=True)
            for first, last, steps, column in ends:
                low, rise = first * steps, (last - first) * steps
                column += [round(low + rise * part) for part in parts]
        return columns

    def _knot(self, station: Station, hour: int) -> tuple[float, ...]:
        """For each channel its true value at a full hour since the epoch, in the channel's unit."""
        key = (station.name, hour)
        if key not in self._knots:
            if len(self._knots) > 2 * CHUNK:
                self._knots.clear()
            now = station.at(EPOCH + HOUR * hour)
            shaking, charging = 0.08 * now.wind, 23.2 + 0.6 * now.daylight
            self._knots[key] = (now.temperature, now.humidity, now.pressure, shaking, charging)
        return self._knots[key]

    def _disturb(self, rows: list[Reading | None], ticks: int) -> dict[int, list[Reading]]:
        """Put anomalies and faults into `rows` (missing ones become None); returns what is to be inserted where."""
        width = len(self._sensors)
        for sensor, until in enumerate(self._silent_until):
            self._silence(rows, sensor, range(self._tick, min(until, self._tick + ticks)))
        for index in self._events(len(rows)):
            reading = rows[index]
            if reading is None:
                continue
            if self._draw.random() < self._anomaly_share:
                rows[index] = self._anomaly(reading)
            else:
                self._fault(rows, index, reading, self._tick + index // width, self._tick + ticks)
        arrived = [item for item in self._waiting if item[0] < self._tick + ticks]
        self._waiting = [item for item in self._waiting if item[0] >= self._tick + ticks]
        inserts: dict[int, list[Reading]] = {}
        for due, reading in arrived:
            inserts.setdefault((due - self._tick + 1) * width, []).append(reading)
        return inserts

    def _events(self, rows: int) -> Iterator[int]:
        """The indices of the next `rows` readings that something happens to: each with the same chance."""
        first = self._tick * len(self._sensors)
        while self._next_event < first + rows:
            yield self._next_event - first
            self._next_event += 1 + self._gap()

    def _gap(self) -> int:
        """How many readings nothing happens to before the next event."""
        if not 0 < self._event_rate < 1:
            return 0 if self._event_rate else sys.maxsize
        return int(math.log(1 - self._draw.random()) / math.log(1 - self._event_rate))

    def _anomaly(self, reading: Reading) -> Reading:
        kind = self._draw.choice(tuple(ANOMALIES))
        channel, low, high = ANOMALIES[kind]
        self.anomalies[kind] += 1
        number = CHANNELS.index(channel)
        value = round(self._draw.uniform(low, high) * STEPS[number]) / STEPS[number]
        return (*_with(reading, number, value)[:7], STATUS_ANOMALY, 1, kind)

    def _fault(self, rows: list[Reading | None], index: int, reading: Reading, tick: int, end: int) -> None:
        kind = self._draw.choice(FAULTS)
        if kind == "dropout":
            sensor = reading[1]
            self._silent_until[sensor] = tick + self._draw.randrange(3, 31)
            self._silence(rows, sensor, range(tick, min(self._silent_until[sensor], end)))
            return
        self.faults[kind] += 1
        if kind == "resent":
            self._waiting.append((tick, reading))
        elif kind == "late":
            rows[index] = None
            self._waiting.append((tick + self._draw.randrange(2, 13), reading))
        else:
            value = None if kind == "null_value" else self._draw.choice(WORDS)
            wrong = _with(reading, self._draw.randrange(len(CHANNELS)), value)
            rows[index] = (*wrong[:7], STATUS_FAULT, 0, None)

    def _silence(self, rows: list[Reading | None], sensor: int, ticks: range) -> None:
        self.faults["dropout"] += len(ticks)
        for tick in ticks:
            rows[(tick - self._tick) * len(self._sensors) + sensor] = None


def _with(reading: Reading, channel: int, value: object) -> Reading:
    """`reading` with another value in one channel."""
    place = 2 + channel
    return (*reading[:place], value, *reading[place + 1 :])  # type: ignore[return-value]


def _merge(rows: Sequence[Reading | None], inserts: dict[int, list[Reading]]) -> list[Reading]:
    """`rows` without the missing ones, and with the readings of `inserts` before the index that they stand at."""
    merged: list[Reading | None] = []
    done = 0
    for index in sorted(inserts):
        merged += rows[done:index]
        merged += inserts[index]
        done = index
    merged += rows[done:]
    return [row for row in merged if row is not None]


def _precision(start: datetime, interval: timedelta) -> str:
    """How finely timestamps must be written so that no two ticks look equal."""
    parts = start.microsecond, interval.microseconds
    if not any(parts):
        return "seconds"
    return "microseconds" if any(part % 1000 for part in parts) else "milliseconds"
