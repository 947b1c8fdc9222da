"""Random mixtures of objects that were not made for each other: each call gives a result or an error that names itself.

Run by test_states.py in a process of its own, which memory that is corrupted would end:
python -m tests.support.mismatches SEED COUNT
"""

import copy
import re
import sys

import numpy as np

import pyattn
from pyattn.models.cached_sequences import CachedSequences, Memory
from pyattn.precision import Quantized

WIDTHS, HEADS = (16, 24, 48), (1, 2, 4)


class Mixture:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def one(self, of):
        return of[self.rng.integers(len(of))]

    def normal(self, *shape, dtype=np.float32):
        return self.rng.standard_normal(shape).astype(dtype)

    def sizes(self, cross=False):
        heads = self.one(HEADS)
        return (self.one(WIDTHS) * heads // heads, heads, self.one((8, 40))), {
            "num_key_value_heads": self.one((None, 1)),
            "head_dim": self.one((4, 8)),
            "norm": self.one(("layer", "rms")),
            "gated": self.one((False, True)),
            "norm_first": self.one((False, True)),
            "window": self.one((None, (3, 0))),
            "rotary_base": self.one((None, 100.0)),
            "softcap": self.one((None, 3.0)),
            **{name: self.one((False, False, True)) for name in ("sinks", "alibi", "qk_norm")},
            "dtype": self.one(("float32", "float64", "bfloat16", "int8")),
            "rng": 0,
        }

    def decoder(self):
        sizes, options = self.sizes()
        layer = pyattn.TransformerDecoderLayer(*sizes, cross_attention=self.one((False, True)), **options)
        return pyattn.TransformerDecoder(layer, int(self.rng.integers(1, 4)))

    def encoder(self):
        sizes, options = self.sizes()
        return pyattn.TransformerEncoder(
            pyattn.TransformerEncoderLayer(*sizes, **options), int(self.rng.integers(1, 4))
        )

    def rows_for(self, model, batch=2, length=5):
        attention = model.layers[0].self_attn
        return self.normal(batch, length, attention.embed_dim, dtype=attention.out_proj.dtype)

    def state_of(self, decoder):
        wants = decoder.layers[0].multihead_attn is not None
        memory = self.rows_for(decoder, 2, int(self.rng.integers(1, 9))) if wants else None
        state = decoder.start(memory, capacity=40, batch_size=2, cache_dtype=self.one((None, "int8")))
        if self.rng.random() < 0.5:
            decoder.step(self.rows_for(decoder), state)
        return state

    def replaced(self, model, other):
        """model with a part of another, or with an attribute that does not fit."""
        layer = self.one(model.layers)
        theirs = self.one(other.layers)
        choice = self.rng.integers(6)
        if choice == 0:
            model.layers[self.rng.integers(len(model.layers))] = copy.deepcopy(theirs)
        elif choice == 1:
            name = self.one(("self_attn", "linear1", "linear2", "norm1", "norm2"))
            setattr(layer, name, copy.deepcopy(getattr(theirs, name, None) or theirs.norm1))
        elif choice == 2:
            name = self.one(("num_heads", "num_key_value_heads", "head_dim", "embed_dim", "q_norm", "rotary", "left"))
            setattr(layer.self_attn, name, int(self.one((1, 2, 3, 8, 64))))
        elif choice == 3:
            layer.self_attn.out_proj = copy.deepcopy(theirs.self_attn.out_proj)
        elif choice == 4:
            model.norm = self.one((pyattn.LayerNorm(24), pyattn.RMSNorm(16, dtype="float64")))
        else:
            name, value = self.one((("gated", True), ("norm_first", True), ("norm_first", False)))
            setattr(layer, name, value)
        return model

    def states(self):
        decoder, other = self.decoder(), self.decoder()
        state = self.state_of(other)
        if self.rng.random() < 0.3:
            decoder, state = self.replaced(other, decoder), state
        decoder.step(self.rows_for(decoder), state)

    def layers(self):
        make = self.one((self.encoder, self.decoder))
        model, other = make(), make()
        x = self.rows_for(model)
        model = self.replaced(model, other)
        mask = self.one((None, self.normal(5, 5) > 0, self.normal(2, model.layers[0].self_attn.num_heads, 5, 5) > 0))
        cross = isinstance(model, pyattn.TransformerDecoder) and model.layers[0].multihead_attn is not None
        model(x, *([self.rows_for(other)] if cross else []), mask)

    def parts(self):
        layer = pyattn.Linear(16, 24, dtype=self.one(("float32", "float64", "bfloat16", "int8")), rng=0)
        for _ in range(2):
            name = self.one(("in_features", "out_features", "dtype", "weight_dtype"))
            setattr(
                layer, name, np.dtype(self.one(("float32", "float64"))) if "dtype" in name else self.one((1, 8, 99))
            )
        layer(self.normal(3, layer.in_features, dtype=layer.dtype))

    def weights(self):
        elements = self.rng.integers(-9, 9, (24, 16)).astype(self.one(("int8", "float32", "int16")))
        scales = self.normal(
            *self.one(((24,), (23,), (24, 1), (48,))), dtype=self.one(("float32", "float64", "float16"))
        )
        scales = scales[::2] if scales.shape == (48,) else scales
        layer = pyattn.Linear(16, 24, dtype=self.one(("float32", "bfloat16", "int8")))
        layer.load_state_dict({"weight": Quantized(elements, scales), "bias": self.normal(24)})
        found = layer(np.eye(16, dtype=np.float32))
        np.testing.assert_allclose(found, (elements.T * scales) + layer.state_dict()["bias"], rtol=0.05, atol=0.3)

    def caches(self):
        cache = pyattn.KVCache(
            2, 2, 40, 8, dtype=self.one(("float32", "float64", "bfloat16", "int8")), window=self.one((None, 9))
        )
        heads, width = self.one((2, 2, 3)), self.one((8, 8, 9))
        key = self.normal(2, heads, self.rng.integers(0, 50), width, dtype=self.one(("float32", "float64", ">f4")))
        lengths = self.one((None, np.array([1, 2], np.uint64), np.array([9, 0], ">i2"), [1, 99]))
        cache.append(key, self.one((key, key[:, :1], key.astype(np.float16))), lengths=lengths)
        cache.reorder(self.one(([1, 0], [1], np.array([0, 1], np.uint8))))
        dtype = self.one((np.float32, np.float64))
        cache.attend(self.normal(len(cache.lengths), self.one((2, 4, 3)), 3, self.one((8, 9)), dtype=dtype))

    def memories(self, models):
        model, other = self.one(models), self.one(models)
        hidden = self.normal(2, 6, other.config.hidden_size, dtype=self.one((np.float32, np.float64)))
        hidden = self.one((hidden, hidden[..., :-1], hidden[0]))
        lengths = self.one(
            (np.array([6, 3]), [6, 3], [7, 0], [-1, 2], [1, 2, 3], [1.0, 2.0], np.array([6, 6], np.uint64))
        )
        memory = self.one((Memory(hidden, lengths), None, hidden))
        if self.rng.random() < 0.3:
            CachedSequences(model, self.state_of(self.decoder())).step(np.ones((2, 3), int))
        model.start(memory, capacity=9, batch_size=2).step(
            np.ones((2, 3), int), self.one((None, np.array([1, 3], np.uint64)))
        )


def main(seed, count, models=()):
    results = 0
    for i in range(count):
        mixture = Mixture((seed, i))
        kinds = [mixture.states, mixture.layers, mixture.parts, mixture.weights, mixture.caches]
        kinds += [lambda m=mixture: m.memories(models)] * bool(models)
        try:
            kinds[i % len(kinds)]()
            results += 1
        except (TypeError, ValueError) as error:
            assert re.match(r"[A-Za-z_]+(\.[a-z_]+)?: ", str(error)), (seed, i, repr(error))
    print(results, "of", count)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
