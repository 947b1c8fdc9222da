"""Records what transformers' WhisperFeatureExtractor computes of one signal, for tests/tasks/test_audio.py.

Run with transformers installed: python -m tests.data.record_audio
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "audio" / "log_mel.npz"
FRAMES = 40


def signal():
    """A random walk between -10000 and 10000, of 16 bits: most bands have something to hear."""
    steps = np.random.default_rng(0).integers(-3000, 3001, 5000)
    walk = np.abs((np.cumsum(steps) + 10000) % 40000 - 20000) - 10000
    return (walk / 32768).astype(np.float32)


def main():
    from transformers import WhisperFeatureExtractor

    recorded = {"samples": signal()}
    for bands in (80, 128):
        extractor = WhisperFeatureExtractor(feature_size=bands)
        filled = np.pad(signal(), (0, FRAMES * 160 - len(signal())))
        # The NumPy path, in float64: the other one differs with torch's version.
        (features,) = extractor._np_extract_fbank_features([filled], "cpu")
        recorded[f"mel{bands}"] = features.T.astype(np.float32)
    np.savez_compressed(FILE, **recorded)


if __name__ == "__main__":
    main()
