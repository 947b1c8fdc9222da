"""Records what sentence_transformers.util.quantize_embeddings makes of vectors, for tests/tasks/test_quantization.py.

Run with torch and sentence-transformers installed: python -m tests.data.record_quantization
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

PRECISIONS = ("int8", "uint8", "binary", "ubinary")


def embeddings():
    """Rows of ten features, of which one is constant, one has two values and one is tiny."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 10)).astype(np.float32)
    x[:, 2], x[:, 5] = 0.25, np.where(x[:, 5] > 0, 1, -1)
    x[:, 7] *= np.float32(1e-30)
    x[3, 4] = 0
    return x


def main():
    from sentence_transformers.util import quantize_embeddings

    x = embeddings()
    calibration = (x[:5] * 2).astype(np.float32)
    ranges = np.stack([x.min(0) / 2, x.max(0) / 2])
    recorded = {"embeddings": x, "calibration": calibration, "ranges": ranges}
    for precision in PRECISIONS:
        recorded[f"{precision}.own"] = quantize_embeddings(x, precision)
        recorded[f"{precision}.wide"] = quantize_embeddings(x.astype(np.float64), precision)
        if precision.endswith("int8"):
            recorded[f"{precision}.calibration"] = quantize_embeddings(x, precision, calibration_embeddings=calibration)
            recorded[f"{precision}.ranges"] = quantize_embeddings(x, precision, ranges=ranges)
            recorded[f"{precision}.single"] = quantize_embeddings(x[0], precision, ranges=ranges)
        for i, matrix in enumerate(quantize_embeddings([x[:2], x[2:3], x[3:]], precision)):
            recorded[f"{precision}.list.{i}"] = matrix
    save_file(recorded, Path(__file__).parent / "quantization.safetensors")


if __name__ == "__main__":
    main()
