"""Rerankers: how well each document answers a query, read together by a model of pairs of texts."""

from pyattn.tasks.reranker.reranker import Reranker

__all__ = ["Reranker"]
