"""Records what LangChain, Chroma and BERTopic look for in what embeds texts, and what they call: integrations.json.

pip install langchain-core chromadb bertopic
python -m tests.data.record_integrations
"""

import functools
import inspect
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import bertopic
import chromadb
import numpy as np
from bertopic.backend import BaseEmbedder
from chromadb.config import Settings
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from pyattn.integrations import ChromaEmbeddingFunction, LangChainEmbeddings
from pyattn.sklearn import SentenceVectorizer
from tests.support.tiny_model import write_model

FILE = Path(__file__).with_name("integrations.json")
TEXTS = ["the cat sat on a mat", "find the root of a function", "a dog ran", "solve the equation"]


def interface(cls):
    """The public methods of a class, with the names of their arguments."""
    methods = {name: x for name, x in inspect.getmembers(cls, inspect.isroutine) if not name.startswith("_")}
    if "__call__" in vars(cls):
        methods["__call__"] = vars(cls)["__call__"]
    return {name: [x for x in inspect.signature(method).parameters if x != "self"] for name, method in methods.items()}


def spied(cls, calls):
    """A class whose methods write down their calls."""

    def spy(name, method):
        @functools.wraps(method)
        def call(self, *args, **kwargs):
            calls.append([name, plain(args), plain(kwargs)])
            return method(self, *args, **kwargs)

        return call

    own = {name: x for name, x in vars(cls).items() if inspect.isfunction(x)}
    names = [name for name in own if name == "__call__" or not name.startswith("_")]
    return type(cls.__name__, (cls,), {name: spy(name, own[name]) for name in names})


def plain(x):
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    return [plain(y) for y in x] if isinstance(x, list | tuple | np.ndarray) else x


def of_langchain(model):
    calls = []
    store = InMemoryVectorStore(spied(LangChainEmbeddings, calls)(model))
    store.add_texts(TEXTS)
    store.similarity_search("find a cat")
    return calls


def of_chroma(model):
    calls = []
    with tempfile.TemporaryDirectory() as folder:
        client = chromadb.PersistentClient(folder, settings=Settings(anonymized_telemetry=False))
        function = spied(ChromaEmbeddingFunction, calls)(model)
        collection = client.create_collection("texts", embedding_function=function)
        collection.add(ids=list("abcd"), documents=TEXTS)
        collection.query(query_texts=["find a cat"], n_results=2)
    return calls


def of_bertopic(model):
    calls = []
    pipeline = make_pipeline(spied(SentenceVectorizer, calls)(model))
    topics = bertopic.BERTopic(
        embedding_model=pipeline, umap_model=PCA(2), hdbscan_model=KMeans(2, random_state=0), min_topic_size=2
    )
    topics.fit_transform(TEXTS * 2)
    topics.find_topics("cat", top_n=1)
    return calls


def main():
    with tempfile.TemporaryDirectory() as folder:
        model = str(write_model(Path(folder) / "model"))
        recorded = {
            "versions": {name: version(name) for name in ("langchain-core", "chromadb", "bertopic")},
            "interfaces": {
                "langchain": interface(Embeddings),
                "chroma": interface(chromadb.EmbeddingFunction),
                "bertopic": interface(BaseEmbedder),
            },
            "calls": {"langchain": of_langchain(model), "chroma": of_chroma(model), "bertopic": of_bertopic(model)},
        }
    FILE.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
