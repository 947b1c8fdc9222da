"""Continuations made of tables of logits, and prompts for them."""

import itertools

import numpy as np

from tests.data.record_generation import (
    VOCABULARY,
    tables,
)


class Table:
    """The recorded models: logits are a table's row for the last token, plus another's for the one before."""

    def __init__(self, number, rows):
        self.tables = tables(number)
        self.rows = [[] for _ in range(rows)]
        self.steps = []  # how many rows each step had

    def step(self, tokens, lengths=None):
        assert tokens.dtype == np.int64
        assert len(tokens) == len(self.rows)
        self.steps.append(len(tokens))
        for i, new in enumerate(tokens.tolist()):
            self.rows[i] = self.rows[i] + new[: None if lengths is None else lengths[i]]
        logits = self.tables[0, [row[-1] for row in self.rows]]
        for i, row in enumerate(self.rows):
            if len(row) > 1:
                logits[i] += self.tables[1, row[-2]]
        return logits

    def reorder(self, rows):
        self.rows = [self.rows[i] for i in rows]

    def log_probability(self, prompt, tokens):
        """Of tokens after a prompt, in float64."""
        total = 0.0
        row = list(prompt)
        for token in tokens:
            logits = self.tables[0, row[-1]].astype(np.float64)
            if len(row) > 1:
                logits += self.tables[1, row[-2]]
            total += logits[token] - np.log(np.exp(logits).sum())
            row.append(int(token))
        return total


class Fixed:
    """The same logits (vocabulary,), or (rows, vocabulary), at every step; or those of a list, one after the other."""

    def __init__(self, *logits):
        self.logits = [np.asarray(x, np.float32) for x in logits]
        self.taken = 0

    def step(self, tokens, lengths=None):
        logits = self.logits[min(self.taken, len(self.logits) - 1)]
        self.taken += 1
        return np.broadcast_to(logits, (len(tokens), logits.shape[-1]))

    def reorder(self, rows):
        pass


def assert_same(result, other):
    for one, two in itertools.zip_longest([result, *result.alternatives], [other, *other.alternatives]):
        np.testing.assert_array_equal(one.tokens, two.tokens)
        assert (one.reason, one.score) == (two.reason, two.score)


def random_prompts(rng, number):
    return [rng.integers(0, VOCABULARY, rng.integers(1, 9)) for _ in range(number)]
