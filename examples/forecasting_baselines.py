"""Forecasts of a day of hours without a network: seasons again, exponential smoothing, regression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from examples.forecasting_series import DAY, TEST, VALIDATION, WEEK, following, normalized, origins_of

Forecast = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (series, origins) -> (origins, DAY)


def repeat(season: int) -> Forecast:
    """The last season again."""
    return lambda series, origins: sliding_window_view(series, DAY)[origins - season]


def holt_winters(rates: np.ndarray) -> Forecast:
    """Exponential smoothing of a level, a day's season and a week's, with the last error fading out: Taylor 2003.

    ``rates`` (4, choices): how fast level, day and week follow, and which share of an error the next hour keeps. Those
    are taken that err least on the days of validation. Smoothing begins 16 weeks before the first origin, with means
    over the first four of them.
    """
    to_level, to_day, to_week, kept = rates

    def forecasts(series: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """(choices, origins, DAY), in one pass over the hours."""
        begin = int(origins[0]) - 16 * WEEK
        if begin < 0:
            raise ValueError("holt_winters: needs 16 weeks before the first origin")
        first = series[begin : begin + 4 * WEEK].reshape(-1, WEEK).mean(0)
        by_hour = first.reshape(-1, DAY).mean(0)
        level, error = np.full(len(kept), first.mean()), np.zeros(len(kept))
        day = np.repeat((by_hour - first.mean())[:, None], len(kept), 1)  # (DAY, choices)
        week = np.repeat((first - np.tile(by_hour, 7))[:, None], len(kept), 1)
        ahead, wanted, found = np.arange(DAY), set(origins.tolist()), []
        for hour in range(4 * WEEK, int(origins[-1]) + 1 - begin):
            if hour + begin in wanted:
                seasons = day[(hour + ahead) % DAY] + week[(hour + ahead) % WEEK]
                found.append(level + seasons + error * kept ** (ahead[:, None] + 1))
            d, w = hour % DAY, hour % WEEK
            smooth = level + day[d] + week[w]
            new = series[begin + hour] - smooth - kept * error  # the error of the forecast of one hour
            error = series[begin + hour] - smooth
            level, day[d], week[w] = level + to_level * new, day[d] + to_day * new, week[w] + to_week * new
        return np.stack(found).transpose(2, 0, 1)

    def forecast(series: np.ndarray, origins: np.ndarray) -> np.ndarray:
        chosen_on = origins_of(series, TEST + VALIDATION, TEST)
        errors = np.abs(forecasts(series, chosen_on) - following(series, chosen_on)).mean((1, 2))
        return forecasts(series, origins)[errors.argmin()]

    return forecast


def regression(context: int, penalty: float = 30.0) -> Forecast:
    """Ridge regression from the normalized hours of the context to the next day, of each series alone."""

    def forecast(series: np.ndarray, origins: np.ndarray) -> np.ndarray:
        windows = sliding_window_view(series[:-TEST], context + DAY).astype(float)
        inputs, mean, deviation = normalized(windows[:, :context])
        gram = inputs.T @ inputs + penalty * np.eye(context)
        weights = np.linalg.solve(gram, inputs.T @ ((windows[:, context:] - mean) / deviation))
        inputs, mean, deviation = normalized(sliding_window_view(series, context)[origins - context])
        return inputs @ weights * deviation + mean

    return forecast


def baselines(context: int) -> dict[str, Forecast]:
    """What needs no network, by name."""
    choices = ((0.003, 0.01, 0.03, 0.1), (0, 0.03, 0.1, 0.2), (0, 0.1, 0.2, 0.4), (0, 0.7, 0.9))
    return {
        "the day before": repeat(DAY),
        "the week before": repeat(WEEK),
        "Holt-Winters, day and week": holt_winters(np.stack(np.meshgrid(*choices)).reshape(4, -1)),
        "ridge regression": regression(context),
    }
