cdef class Memory:
    cdef char *data
    cdef object owner
    cdef bint traced
