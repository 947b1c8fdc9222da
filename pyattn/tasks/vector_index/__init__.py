"""A search index that keeps its place as a corpus grows: a directory that is appended to, and mapped into memory.

`pyattn.tasks.search_index` holds all vectors in memory and compares each of them: the choice up to some ten thousand
passages. Here a graph finds candidates by vectors of 8 bits, and only their float32 vectors are read and compared.
"""

from pyattn.tasks.vector_index.index import VectorIndex

__all__ = ["VectorIndex"]
