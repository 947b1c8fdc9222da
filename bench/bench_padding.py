"""Sequences of different lengths: pyattn on the padded batch, packed and one by one, and torch, in GFLOP/s.

Work is counted on real tokens alone: the queries and keys of padding are none. With kv_lengths a padded batch still has
its padded queries, which attend to the real keys; "with padded queries" counts their work too. Every answer is checked
against the float64 reference before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import oracle
from bench.cases import Arrays, RaggedCase
from bench.compare import compare_all
from bench.peers import Call, Peer
from bench.report import Goal, goals_as_results, goals_table, of_roofline, parse_options, table, write
from bench.runtimes import torch_call, torch_tensor

# Eight sequences that fill 56 % of 8 x 512.
CASE = RaggedCase(12, 512, 512, 64, batch=8, lengths=(512, 448, 384, 320, 256, 192, 128, 54))

LOOP, SPEEDUP = 0.95, 3.0  # the goals: of the loop's GFLOP/s, and over torch with a mask


def _varlen(case: RaggedCase, arrays: Arrays, threads: int) -> Call:
    import pyattn

    (query, key, value), cu_seqlens, keywords = arrays, case.cu_seqlens, case.keywords
    return lambda: pyattn.varlen_attention(query, key, value, cu_seqlens, **keywords)


def _kv_lengths(case: RaggedCase, arrays: Arrays, threads: int) -> Call:
    import pyattn

    query, key, value = map(case.padded, arrays)
    lengths = np.array(case.lengths)
    return lambda: pyattn.scaled_dot_product_attention(query, key, value, kv_lengths=lengths)


def _loop(case: RaggedCase, arrays: Arrays, threads: int) -> Call:
    """On slices of the packed arrays, where the heads of a token stand side by side."""
    import pyattn

    packed = [x.swapaxes(0, 1) for x in arrays]
    sequences = [[x[:, part] for x in packed] for part in case.slices]
    return lambda: [pyattn.scaled_dot_product_attention(*sequence) for sequence in sequences]


def _loop_over_copies(case: RaggedCase, arrays: Arrays, threads: int) -> Call:
    """On copies in which each head's rows lie one after the other, as in a padded batch."""
    import pyattn

    sequences = list(zip(*map(case.sequences, arrays), strict=True))
    return lambda: [pyattn.scaled_dot_product_attention(*sequence) for sequence in sequences]


def _torch_mask(case: RaggedCase, arrays: Arrays, threads: int) -> Call:
    import torch

    tensors = [torch_tensor(case.padded(array)) for array in arrays]
    mask = torch.arange(case.S) < torch.tensor(case.lengths)[:, None, None, None]
    attention = torch.nn.functional.scaled_dot_product_attention
    return torch_call(lambda: attention(*tensors, attn_mask=mask), threads)


def _torch_loop(case: RaggedCase, arrays: Arrays, threads: int) -> Call:
    import torch

    # The flash path wants four axes.
    sequences = zip(*map(case.sequences, arrays), strict=True)
    tensors = [[torch_tensor(array[None]) for array in sequence] for sequence in sequences]
    attention = torch.nn.functional.scaled_dot_product_attention
    calls = [torch_call(lambda inputs=inputs: attention(*inputs), threads) for inputs in tensors]
    return lambda: [call()[0] for call in calls]


VARLEN = Peer("pyattn varlen", ("pyattn",), _varlen)
PADDED = Peer("pyattn kv_lengths", ("pyattn",), _kv_lengths)
ONE_BY_ONE = Peer("pyattn loop", ("pyattn",), _loop)
COPIES = Peer("pyattn loop, copies", ("pyattn",), _loop_over_copies)
TORCH_MASK = Peer("torch mask", ("torch",), _torch_mask)
PEERS = [VARLEN, PADDED, ONE_BY_ONE, COPIES, TORCH_MASK, Peer("torch loop", ("torch",), _torch_loop)]


def goals(case: RaggedCase, contenders: dict[str, dict[str, float]]) -> list[Goal]:
    def time_ratio(slow: Peer, fast: Peer) -> float:
        both = slow.name in contenders and fast.name in contenders
        return contenders[slow.name]["best_s"] / contenders[fast.name]["best_s"] if both else float("nan")

    of_loop = time_ratio(COPIES, PADDED) * padded_query_flops(case) / case.flops
    return [
        Goal(VARLEN.name, "GFLOP/s over the loop's", time_ratio(ONE_BY_ONE, VARLEN), LOOP),
        Goal(PADDED.name, "the same over copies, with padded queries", of_loop, LOOP),
        Goal(VARLEN.name, "times as fast as torch mask", time_ratio(TORCH_MASK, VARLEN), SPEEDUP),
        Goal(PADDED.name, "times as fast as torch mask", time_ratio(TORCH_MASK, PADDED), SPEEDUP),
    ]


def padded_query_flops(case: RaggedCase) -> float:
    """The work when each of the L queries, padding or not, attends to its sequence's keys."""
    return 4 * case.heads * case.D * case.L * case.rows


def padding_table(case: RaggedCase, result: dict[str, Any]) -> str:
    contenders = result["contenders"]
    ours = contenders[VARLEN.name]["best_s"]
    rows = []
    for name, found in contenders.items():
        with_padding = f"{padded_query_flops(case) / found['best_s'] / 1e9:.0f}" if name == PADDED.name else "-"
        row = [
            name,
            f"{found['best_s'] * 1e3:.2f}",
            f"{found['gflops']:.0f}",
            of_roofline(found["of_roofline"], result["bound"]),
        ]
        rows.append([*row, with_padding, f"{found['best_s'] / ours:.2f}x"])
    return table(["", "ms", "GFLOP/s", "of roofline", "with padded queries", f"{VARLEN.name} is"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(__doc__, argv)
    compared = compare_all([CASE], PEERS, oracle.ragged_attention, options)
    (result,) = compared["results"]
    found = goals(CASE, result["contenders"])
    print(f"{CASE.name}: {CASE.rows} tokens, {CASE.flops / 1e9:.2f} GFLOP on them, heads x width 12 x 64")
    print(padding_table(CASE, result))
    print(goals_table(found))
    result["gflop_with_padded_queries"] = padded_query_flops(CASE) / 1e9
    write(options, "padding", {**compared, "goals": goals_as_results(found)})


if __name__ == "__main__":
    main()
