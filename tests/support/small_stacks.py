"""Stacks of two small layers, for tests of what holds and changes their parts."""

import numpy as np

from pyattn import TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer


def normal(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def decoder(layers=2, width=16, heads=4, norm=None, **options):
    options = {"cross_attention": False, "rng": 0} | options
    return TransformerDecoder(TransformerDecoderLayer(width, heads, 24, **options), layers, norm)


def encoder(layers=2, **options):
    return TransformerEncoder(TransformerEncoderLayer(16, 4, 24, rng=0, **options), layers)
