"""Column sums of the weights."""

from pyattn._core.tasks cimport Call

cdef int write_column_sums(const Call *call, int team) except -1
