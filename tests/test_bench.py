"""What the benchmarks make of times: fractions of the roofline, slower rows, fair shares, a model of more cores."""

import pytest

pytest.importorskip("threadpoolctl")
pytest.importorskip("tqdm")

from bench import bench_neighbours, roofline, scaling, summary
from bench.apart import Apart, FailedError
from bench.bench_generate import PARTS
from bench.bench_generate import work as step_work
from bench.cases import Case, LinearCase
from bench.report import row_of
from bench.roofline import Work, roof
from bench.timing import Timing

PEAKS = {"fma_gflops_float32": 100.0, "fma_gflops_bfloat16": 200.0, "read_gbytes_per_s": 10.0}


def test_the_roofline_is_the_lower_of_peak_and_bandwidth(monkeypatch):
    monkeypatch.setattr(roofline, "cache_bytes", lambda: 1e6)
    products, reading = Work({"float32": 1e9}, 1e7), Work({"float32": 1e7}, 1e8)
    assert (roof(products, PEAKS).seconds, roof(products, PEAKS).bound) == (0.01, "products")
    assert (roof(reading, PEAKS).seconds, roof(reading, PEAKS).bound) == (0.01, "reading")
    assert roof(products, PEAKS).fraction(0.02) == 0.5
    assert roof([products, reading, reading], PEAKS).seconds == pytest.approx(0.03)
    assert roof([products, reading, reading], PEAKS).bound == "reading"
    assert roof(Work({"bfloat16": 1e9, "int8": 1e9}, 0.0), PEAKS).seconds == pytest.approx(0.005 + 0.01)
    assert roof(Work({}, 1e6), PEAKS).cached
    assert not roof(reading, PEAKS).cached


def test_work_is_counted_once():
    causal = Case(2, 8, 8, 4, ("causal",), key_heads=1)
    assert causal.work == Work({"float32": 4 * 2 * 36 * 4}, 2 * 8 * 4 * 4)
    assert LinearCase(3, 4, 5, "int8").work == Work({"int8": 2 * 3 * 4 * 5}, 20)
    step = step_work(PARTS[1], "bfloat16")[0]
    assert step.read_bytes > 2 * 12 * 12 * 768**2
    assert step_work(PARTS[1], "bfloat16 + cache of int8")[0].read_bytes < step.read_bytes


def recorded(cpu, *times, fraction=0.5):
    rows = [
        {"name": f"row {i}", "best_s": 0.9 * x, "median_s": x, "slowest_s": 1.1 * x, "of_roofline": fraction}
        for i, x in enumerate(times)
    ]
    return {"linear": {"environment": {"cpu": cpu, "isa": "avx2", "threads": 2}, "rows": rows}}


def test_rows_that_became_slower_are_listed_the_worst_first():
    told = summary.compared(recorded("a", 1.01, 1.1, 1.3, 0.5), recorded("a", 1.0, 1.0, 1.0, 1.0))
    assert "2 of 4 rows are slower" in told
    lines = [line.split() for line in told.splitlines() if line.startswith("linear: row")]
    assert [(line[2], line[-1]) for line in lines] == [("2", "yes"), ("1", "1.10")]  # the second within noise


def test_times_of_another_machine_are_not_compared():
    told = summary.compared(recorded("a", 5.0, fraction=0.4), recorded("b", 1.0))
    assert "not comparable" in told
    assert "1.25" in told
    assert "0 of 0" in summary.compared(recorded("a", 1.0), {})


def test_the_best_peer_stands_beside_a_row():
    row = row_of("x", Timing(2.0, 2.5, 3.0), roof(Work({"float32": 1e11}, 0.0), PEAKS), {"a": 3.0, "b": 5.0})
    assert (row.best_peer, row.over_best_peer, row.of_roofline, row.bound) == ("a", 1.5, 0.5, "products")
    assert row_of("x", Timing(2.0, 2.5, 3.0), roof(Work({}, 1.0), PEAKS), {}).over_best_peer is None


def test_shares_of_cores():
    assert bench_neighbours.fair_slowdown((0, 0), 2, 2) == 1
    assert bench_neighbours.fair_slowdown((1, 0), 2, 2) == 1.5
    assert bench_neighbours.fair_slowdown((4, 19), 2, 2) == pytest.approx(1.03, abs=0.01)
    assert bench_neighbours.fair_slowdown((2, 0), 2, 8) == 1


def test_the_model_gives_back_what_it_was_made_of():
    machine = scaling.Machine(1e10, 1e11, 1e-6)
    model = scaling.Model("x", [scaling.Part(1.0, 64)], 10)
    two = 0.1 + (1.0 - 0.1) / 2 + 10 * 1e-6
    serial = scaling.serial_seconds(model, machine, 1.0, two)
    assert serial == pytest.approx(0.1)
    assert scaling.seconds(model, machine, 1.0, serial, 2, 1) == pytest.approx(two)
    assert scaling.used(10, 4) == pytest.approx(10 / 3)
    reads = scaling.Model("x", [scaling.Part(1.0, 1024, 1e12)], 0)
    assert scaling.seconds(reads, machine, 1.0, 0.0, 64, 1) == 2 * scaling.seconds(reads, machine, 1.0, 0.0, 64, 2)


def failing(kind):
    import os

    def call():
        if kind == "error":
            raise ValueError("why")
        os._exit(3)

    return {"call": call, "seven": lambda: 7}


def test_a_contender_may_fail():
    contender = Apart(1)
    try:
        assert contender.make(failing, "error") == ["call", "seven"]
        with pytest.raises(FailedError, match="ValueError: why"):
            contender.result("call")
        assert contender.result("seven") == 7
        assert len(contender.samples("seven", 0.0)) == 1
        contender.make(failing, "death")
        with pytest.raises(FailedError, match="the process ended with 3"):
            contender.result("call")
        contender.make(failing, "error")  # in a new process
        assert contender.seconds("seven", 10) >= 0
    finally:
        contender.close()
