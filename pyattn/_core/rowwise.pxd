cimport numpy as cnp

cpdef normalise(
    cnp.ndarray input, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray out, double eps, bint centred, int threads
)
cpdef store(
    cnp.ndarray rows, Py_ssize_t column, cnp.ndarray cache, cnp.ndarray past, cnp.ndarray until, int threads
)
cpdef gate(cnp.ndarray input, cnp.ndarray out, int kind, int threads)
cpdef rotate(
    cnp.ndarray rows, cnp.ndarray positions, cnp.ndarray cosines, cnp.ndarray sines, int threads, Py_ssize_t head_width,
    bint interleaved=*,
)
