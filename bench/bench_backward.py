"""The gradients of attention: pyattn.attention_backward and torch's backward pass, in GFLOP/s of useful work.

Work is that of five products over the pairs that may attend; the forward pass is not part of it. A bias gets a gradient
too. Those of query, key and value are checked against the float64 reference before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cases import Arrays, Case
from bench.compare import QUICK_FLOPS, compare_all, comparison_table
from bench.options import MASKS, as_mask
from bench.peers import Call, Peer
from bench.report import Goal, goals_as_results, goals_table, parse_options, write
from bench.roofline import Work, peaks_line
from bench.runtimes import numpy_array, torch_tensor

PRODUCTS = 5  # of the forward pass' two


@dataclass(frozen=True)
class BackwardCase(Case):
    """As many keys as queries, so that the gradients of all three stand side by side."""

    @property
    def flops(self) -> float:
        return super().flops * PRODUCTS / 2

    @property
    def work(self) -> Work:
        return Work({self.dtype: self.flops}, 4 * self.key_value_bytes)

    def gradient(self) -> np.ndarray:
        """Of the output."""
        return self.arrays(seed=1)[0]

    def answer(self, result: Any) -> np.ndarray:
        return np.concatenate([np.asarray(x, np.float64) for x in result[:3]], axis=-1)


# Each with the part of the FMA peak, and how many times torch's speed, that it is to reach; 0: any.
CASES: dict[BackwardCase, tuple[float, float]] = {
    BackwardCase(8, 2048, 2048, 64): (0.90, 1.35),
    BackwardCase(8, 2048, 2048, 128): (0.90, 1.25),
    BackwardCase(8, 2048, 2048, 64, ("causal",)): (0.87, 1.7),
    BackwardCase(8, 2048, 2048, 128, ("causal",)): (0.87, 1.5),
    BackwardCase(12, 512, 512, 64): (0.88, 1.4),
    BackwardCase(96, 128, 128, 64): (0.80, 1.8),
    BackwardCase(384, 32, 32, 32): (0.60, 2.8),
    BackwardCase(8, 2048, 2048, 64, dtype="bfloat16"): (0.84, 1.8),
    BackwardCase(8, 2048, 2048, 128, dtype="bfloat16"): (0.86, 1.7),
    BackwardCase(96, 144, 144, 64, dtype="bfloat16"): (0.72, 5.0),
    BackwardCase(8, 2048, 2048, 64, ("bias",)): (0, 0),
    BackwardCase(8, 2048, 2048, 64, ("softcap",)): (0, 0),
    BackwardCase(8, 2048, 2048, 64, ("left window",)): (0, 0),
    BackwardCase(8, 2048, 2048, 64, ("alibi",)): (0, 0),
    BackwardCase(8, 2048, 2048, 64, ("sinks",)): (0, 0),
    BackwardCase(8, 2048, 2048, 64, ("mask",)): (0, 0),
}
# At most as many times as the plain call of that size
OVER_PLAIN = {"bias": 1.35, "softcap": 1.15, "left window": 0.15, "alibi": 1.05, "sinks": 1.05}


def oracle(case: BackwardCase, arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """Rows of the gradients; only those of one head at a time are n x n in memory."""
    from pyattn import reference

    found = []
    for head in range(case.heads):
        one = [x[:, head : head + 1] for x in (case.gradient(), *arrays)]
        options = {
            name: x[..., head : head + 1] if name in ("alibi_slopes", "sinks") else x
            for name, x in case.keywords.items()
        }
        grads = reference.attention_backward(*one, **options)
        found.append(np.concatenate([grads[name] for name in ("query", "key", "value")], axis=-1)[..., rows, :])
    return np.concatenate(found, axis=1)


def _pyattn(case: BackwardCase, arrays: Arrays, threads: int) -> Call:
    import pyattn

    keywords, gradient = case.keywords, case.gradient()
    out, lse = pyattn.scaled_dot_product_attention(*arrays, return_lse=True, **keywords)
    also = ["bias"] if "bias" in keywords else []
    return lambda: pyattn.attention_backward(gradient, *arrays, out, lse, also=also, **keywords)


def _torch(case: BackwardCase, arrays: Arrays, threads: int) -> Call | None:
    if not case.keywords.keys() <= MASKS:
        return None
    import torch

    torch.set_num_threads(threads)
    inputs = [torch_tensor(x).requires_grad_() for x in arrays]
    options: dict[str, Any] = {"is_causal": True}
    if case.options != ("causal",):
        mask = as_mask(case)
        options = {"attn_mask": None if mask is None else torch_tensor(mask)}
    wanted = inputs
    if "bias" in case.keywords:
        wanted = [*inputs, options["attn_mask"].requires_grad_()]
    out = torch.nn.functional.scaled_dot_product_attention(*inputs, **options)
    gradient = torch_tensor(case.gradient())

    def call() -> list[np.ndarray]:
        return [numpy_array(x) for x in torch.autograd.grad(out, wanted, gradient, retain_graph=True)]

    return call


PEERS = [Peer("pyattn", ("pyattn",), _pyattn), Peer("torch", ("torch",), _torch)]


def goals(results: Sequence[dict[str, Any]], cases: Sequence[BackwardCase]) -> list[Goal]:
    found = []
    plain = results[0]["contenders"]["pyattn"]["best_s"]
    for case, result in zip(cases, results, strict=True):
        (part, times), contenders = CASES[case], result["contenders"]
        ours = contenders["pyattn"]
        if part:
            found.append(Goal(case.name, "of the roofline", ours["of_roofline"], part))
        if times and "torch" in contenders:
            found.append(
                Goal(case.name, "times as fast as torch", contenders["torch"]["best_s"] / ours["best_s"], times)
            )
        if case.options and (bound := OVER_PLAIN.get(case.options[0])) and cases[0].L == case.L:
            found.append(Goal(case.name, "time over plain", ours["best_s"] / plain, bound, at_most=True))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    cases = [case for case in CASES if not options.quick or case.flops <= QUICK_FLOPS]
    compared = compare_all(cases, PEERS, oracle, options)
    print(comparison_table(PEERS, compared["results"]))
    print("GFLOP/s of useful work in the best round, and how many times faster pyattn is.")
    print(peaks_line(compared["peaks"]))
    found = goals(compared["results"], cases)
    print(goals_table(found))
    write(options, "backward", {**compared, "goals": goals_as_results(found)})


if __name__ == "__main__":
    main()
