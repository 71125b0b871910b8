"""The simulated sensors themselves: where each one hangs, what it is, how far it reads beside the truth.

What belongs here: everything about a sensor that no reading changes. What does not: readings (`sensors_stream.py`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from lakehouse_assets.simulators.sensors_weather import STATIONS


class City(NamedTuple):
    """A real place near a weather station; degrees."""

    name: str
    code: str
    latitude: float
    longitude: float
    station: str


CITIES = (
    City("Seattle", "SEA", 47.6062, -122.3321, "Seattle"),
    City("New York", "NYC", 40.7128, -74.0060, "New York"),
    City("Tacoma", "TAC", 47.2529, -122.4443, "Seattle"),
    City("Newark", "NWK", 40.7357, -74.1724, "New York"),
    City("Everett", "EVE", 47.9790, -122.2021, "Seattle"),
    City("Yonkers", "YON", 40.9312, -73.8987, "New York"),
)

MOUNTS = {"rooftop": 0.4, "pole": 0.6, "mast": 0.9, "bridge": 2.0}
"""Kind of deployment -> the vibration that it has without wind, mm/s."""

MODELS = (("EnvStation-100", "1.4.2"), ("EnvStation-200", "2.0.1"), ("EnvStation-200", "2.1.0"))
"""Model and firmware version; the maker does not exist."""

IDENTITY_COLUMNS = (
    "sensor_id",
    "firmware_version",
    "model",
    "manufacturer",
    "location",
    "latitude",
    "longitude",
    "original_timezone",
    "serial_number",
    "manufacture_date",
    "deployment_type",
    "installation_date",
    "height_meters",
    "orientation_degrees",
    "instance_id",
    "sensor_type",
)
"""The columns of `sensor_readings` that are the same in every reading of a sensor."""


@dataclass(frozen=True)
class Sensor:
    """One sensor.

    Attributes:
        identity: the values of `IDENTITY_COLUMNS`.
        station: the weather station whose weather it measures.
        bias: what it reads beside the truth: °C, %, hPa, mm/s, V.
    """

    identity: tuple[str | float, ...]
    station: str
    bias: tuple[float, float, float, float, float]

    @property
    def sensor_id(self) -> str:
        """The name that its readings carry."""
        return str(self.identity[0])


def fleet(count: int, seed: int) -> tuple[Sensor, ...]:
    """`count` sensors spread over the cities; the same seed gives the same sensors, and more of them only add some."""
    return tuple(_sensor(number, CITIES[number % len(CITIES)], seed) for number in range(count))


def _sensor(number: int, city: City, seed: int) -> Sensor:
    draw = random.Random(f"sensor {seed} {number}")
    model, firmware = draw.choice(MODELS)
    mount = draw.choice(tuple(MOUNTS))
    height = draw.randrange(20, 300) / 10
    made = date(2021, 1, 1) + timedelta(days=draw.randrange(700))
    identity = (
        f"{city.code}-{number:04d}",
        firmware,
        model,
        "Simulated Instruments",
        city.name,
        round(city.latitude + draw.uniform(-0.02, 0.02), 6),
        round(city.longitude + draw.uniform(-0.02, 0.02), 6),
        STATIONS[city.station],
        f"SN-{draw.randrange(10**8):08d}",
        made.isoformat(),
        mount,
        (made + timedelta(days=draw.randrange(30, 300))).isoformat(),
        height,
        float(draw.randrange(0, 360, 15)),
        f"edge-{draw.getrandbits(32):08x}",
        "environmental",
    )
    bias = (
        draw.uniform(-0.8, 0.8),
        draw.uniform(-1.0, 1.0),
        draw.uniform(-0.5, 0.5) - 0.12 * height,  # the air gets thinner by 0.12 hPa a metre
        MOUNTS[mount],
        draw.uniform(-0.3, 0.3),
    )
    return Sensor(identity, city.station, bias)
