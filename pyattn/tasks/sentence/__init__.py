"""Sentence embeddings: texts to vectors, with the modules of a sentence-transformers directory."""

from pyattn.tasks.sentence.encoder import SentenceEncoder

__all__ = ["SentenceEncoder"]
