"""`pyattn info`."""

import json

import pyattn
from pyattn import _info


def test_info(run, monkeypatch):
    facts = {"version": "1.2", "isa_available": ["x", "y"], "threads": 2, "openmp": True}
    monkeypatch.setattr(_info, "info", lambda: dict(facts))
    monkeypatch.setattr(_info, "measure", lambda: {"peak": 123.456})
    assert run("info") == (
        0,
        "version        1.2\nisa_available  x, y\nthreads        2\nopenmp         True\n",
        "",
    )
    assert run("info", "--measure")[1].endswith("peak           123.5\n")
    assert json.loads(run("info", "--json")[1]) == facts
    assert json.loads(run("info", "--json", "--measure")[1]) == facts | {"peak": 123.456}


def test_info_of_this_build(run):
    status, output, _ = run("info", "--json")
    assert status == 0
    assert json.loads(output) == pyattn.info()
