cimport numpy as cnp

cpdef layer_norm(
    cnp.ndarray input, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray out, double eps, int threads
)
cpdef gate(cnp.ndarray input, cnp.ndarray out, int kind, int threads)
cpdef rotate(cnp.ndarray rows, cnp.ndarray positions, cnp.ndarray cosines, cnp.ndarray sines, int threads)
