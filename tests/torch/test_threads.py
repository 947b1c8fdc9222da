"""torch and pyattn in one process: who bounds whose threads."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

PROGRAM = """
import os
import torch
import pyattn.torch

def tasks():
    return len(os.listdir("/proc/self/task"))

query = torch.zeros(1, 8, 512, 64)
layer = torch.nn.TransformerEncoderLayer(64, 4, 256, batch_first=True).eval()
layer = pyattn.torch.accelerate(layer)

@torch.no_grad()
def calls():
    before = tasks()
    torch.nn.functional.scaled_dot_product_attention(query, query, query)
    pyattn.torch.scaled_dot_product_attention(query, query, query)
    layer(query[0])
    return tasks() - before

pyattn.torch.enable()
torch.set_num_threads(1)
alone = calls()
torch.set_num_threads(3)
print(alone, calls(), pyattn.torch.served().calls, pyattn.torch.served(layer).calls)
"""


def test_torch_set_num_threads_bounds_pyattns_threads():
    environment = os.environ | {"PYATTN_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["0", "2", "2", "2"]
