"""The drivers: Cython modules that cut work into tasks and run the kernels of csrc/ on them.

    functional, statistics, positional          layers
        |  arrays, checked by pyattn._checks       |  plans, made at load; pointers at each call
        v                                          v
    call: AttentionCall, Call                   layer ----------> linear, rowwise
        |  what is read and written                |              |
        +------------------------------------------+              |
        v                                                         |
    attention: prefill or decode, how many threads, scratch       |
        |                                                         |
        v                                                         |
    tasks: blocks of queries, where their rows lie, their keys    |
        |                                                         |
        v                                                         v
    runtime: the instruction set, threads, signals       kernels.pxd: csrc/kernels.h

Arguments are trusted: whoever calls has checked them. Work is cut so that results have the same bits on any number of
threads. Results are written to arrays that the caller gives; what a driver needs on the way is one allocation.
"""
