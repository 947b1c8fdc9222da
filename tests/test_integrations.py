"""What LangChain, Chroma and BERTopic look for is there, answers their calls as recorded, and works with themselves."""

import asyncio
import importlib
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyattn
from pyattn.integrations import ChromaEmbeddingFunction, LangChainEmbeddings
from tests.support.tiny_model import write_model

RECORDED = json.loads((Path(__file__).parent / "data" / "integrations.json").read_text())
TEXTS = ["the cat sat on a mat", "find the root of a function", "a dog ran", "solve the equation"]
CLASSES = {"langchain": LangChainEmbeddings, "chroma": ChromaEmbeddingFunction}
LEFT_OUT = {"embed_with_retries"}  # nothing of Chroma calls it; what runs here is not tried again


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("model"))
    prompts = {"query": "find ", "document": "a "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return folder


@pytest.fixture(scope="module")
def encoder(model):
    return pyattn.SentenceEncoder.from_pretrained(model)


@pytest.mark.parametrize("library", CLASSES)
def test_interfaces(library):
    for name, arguments in RECORDED["interfaces"][library].items():
        if name not in LEFT_OUT:
            parameters = list(inspect.signature(getattr(CLASSES[library], name)).parameters)
            assert [x for x in parameters if x != "self"] == arguments, name
            is_static = isinstance(inspect.getattr_static(CLASSES[library], name), staticmethod)
            assert is_static == ("self" not in parameters), name


@pytest.mark.parametrize("library", CLASSES)
def test_calls(library, model):
    """Those that the libraries make, in order, have answers of the kind that they want."""
    embedder = CLASSES[library](model)
    answers = {name: getattr(embedder, name)(*args, **kwargs) for name, args, kwargs in RECORDED["calls"][library]}
    if library == "langchain":
        vectors = answers["embed_documents"]
        assert len(vectors) == 4 and all(
            type(x) is float for vector in [*vectors, answers["embed_query"]] for x in vector
        )
        json.dumps(answers)
    else:
        assert answers["is_legacy"] is False and answers["default_space"] in answers["supported_spaces"]
        json.dumps(answers["get_config"])
        for vectors, count in ((answers["__call__"], 4), (answers["embed_query"], 1)):
            assert isinstance(vectors, list) and len(vectors) == count
            assert all(x.dtype == np.float32 and x.shape == (24,) for x in vectors)


def test_calls_of_bertopic(model):
    pytest.importorskip("sklearn", minversion="1.6")
    from sklearn.pipeline import make_pipeline
    from sklearn.utils.validation import check_is_fitted

    from pyattn.sklearn import SentenceVectorizer

    pipeline = make_pipeline(SentenceVectorizer(model))
    check_is_fitted(pipeline)
    for name, args, kwargs in RECORDED["calls"]["bertopic"]:
        assert name == "transform" and getattr(pipeline, name)(*args, **kwargs).shape == (len(args[0]), 24)


def test_queries_and_documents_have_their_prompts(model, encoder):
    langchain, chroma = LangChainEmbeddings(model), ChromaEmbeddingFunction(model)
    documents, queries = encoder.encode_document(TEXTS), encoder.encode_query(TEXTS)
    assert not np.allclose(documents, queries)
    np.testing.assert_array_equal(np.float32(langchain.embed_documents(TEXTS)), documents)
    np.testing.assert_array_equal(np.float32([langchain.embed_query(text) for text in TEXTS]), queries)
    np.testing.assert_array_equal(chroma(TEXTS), documents)
    np.testing.assert_array_equal(chroma.embed_query(TEXTS), queries)
    own = {"query_prompt": "solve ", "document_prompt": ""}
    np.testing.assert_array_equal(
        np.float32(LangChainEmbeddings(model, **own).embed_documents(TEXTS)), encoder.encode(TEXTS, prompt="")
    )
    np.testing.assert_array_equal(
        ChromaEmbeddingFunction(model, **own).embed_query(TEXTS), encoder.encode(TEXTS, prompt="solve ")
    )


@pytest.mark.parametrize("embedder", CLASSES.values(), ids=CLASSES)
def test_settings_and_pickles(embedder, model):
    settings = {"normalize": False, "truncate_dim": 5, "dtype": {"*": "int8"}}
    one = embedder(model, **settings)
    other = pickle.loads(pickle.dumps(one))
    encoder = pyattn.SentenceEncoder.from_pretrained(model, dtype="int8", truncate_dim=5)
    expected = encoder.encode_query(["a cat"], normalize=False)[0]
    for x in (one, other):
        query = x.embed_query("a cat") if embedder is LangChainEmbeddings else x.embed_query(["a cat"])[0]
        np.testing.assert_array_equal(np.float32(query), expected)
    assert len(pickle.dumps(one)) < 1000


def test_langchains_coroutines(model):
    embeddings = LangChainEmbeddings(model)

    async def both():
        return await asyncio.gather(embeddings.aembed_documents(TEXTS), embeddings.aembed_query(TEXTS[0]))

    documents, query = asyncio.run(both())
    assert documents == embeddings.embed_documents(TEXTS) and query == embeddings.embed_query(TEXTS[0])
    assert embeddings.embed_documents([]) == []


def test_chromas_settings(model, tmp_path):
    function = ChromaEmbeddingFunction(model, dtype=np.int8, document_prompt="a ")
    config = json.loads(json.dumps(function.get_config()))
    again = ChromaEmbeddingFunction.build_from_config(config)
    assert again.get_config() == config and config["dtype"] == "int8" and config["model"] == str(model)
    np.testing.assert_array_equal(again(TEXTS), function(TEXTS))
    function.validate_config_update(config, config | {"dtype": "float32", "batch_tokens": 64})
    with pytest.raises(ValueError, match="^ChromaEmbeddingFunction: model was .* where the collection was made"):
        function.validate_config_update(config, config | {"model": "another"})
    with pytest.raises(ValueError, match="^ChromaEmbeddingFunction: the settings api_key, url are unknown"):
        ChromaEmbeddingFunction.build_from_config(config | {"url": 1, "api_key": 2})
    with pytest.raises(ValueError, match="^ChromaEmbeddingFunction: the setting model is missing"):
        ChromaEmbeddingFunction.build_from_config({"dtype": "int8"})


@pytest.mark.parametrize(
    ("similarity", "space"), [("cosine", "cosine"), ("dot", "ip"), ("euclidean", "l2"), ("manhattan", None)]
)
def test_chromas_spaces(similarity, space, tmp_path):
    write_model(tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": similarity}))
    function = ChromaEmbeddingFunction(tmp_path)
    if space:
        assert function.default_space() == space
    else:
        with pytest.raises(ValueError, match="^ChromaEmbeddingFunction: .* compared by manhattan; Chroma compares by"):
            function.default_space()


@pytest.mark.parametrize("embedder", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be a directory or an id"),
        ({"dtype": "int4"}, TypeError, "dtype must be"),
        ({"normalize": "yes"}, TypeError, "normalize must be True or False"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens must be a positive integer"),
        ({"truncate_dim": 0}, ValueError, "truncate_dim must be a positive integer"),
        ({"query_prompt": 3}, TypeError, "query_prompt must be a str or None, not int"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_settings(embedder, settings, error, message, model):
    with pytest.raises(error, match=f"^{embedder.__name__}: {message}"):
        embedder(**{"model": model} | settings)


def test_bad_texts(model):
    langchain, chroma = LangChainEmbeddings(model), ChromaEmbeddingFunction(model)
    for wrong in (None, ["a list"], 3):
        with pytest.raises(TypeError, match="^LangChainEmbeddings.embed_query: text must be a str, not "):
            langchain.embed_query(wrong)
    for call in (langchain.embed_documents, chroma, chroma.embed_query):
        with pytest.raises(TypeError, match=r"^encode: texts\[1\] must be a str, not NoneType"):
            call(["a text", None])
        with pytest.raises(TypeError, match="^encode: texts must be a list of str, not a single one"):
            call("a text")


def test_nothing_is_imported():
    others = {"langchain_core", "chromadb", "bertopic", "sklearn"}
    code = f"import sys, pyattn.integrations; print(*({others} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"


# --- with the libraries themselves, where they are installed


def library(name):
    """A module whose import may warn, as it likes."""
    pytest.importorskip(name.split(".")[0])
    return importlib.import_module(name)


@pytest.mark.oracle
@pytest.mark.filterwarnings("default")
def test_langchain(model):
    embeddings = library("langchain_core.embeddings").Embeddings
    store = library("langchain_core.vectorstores").InMemoryVectorStore
    ours = LangChainEmbeddings(model)
    assert isinstance(ours, embeddings) and isinstance(pickle.loads(pickle.dumps(ours)), embeddings)
    texts = store.from_texts(TEXTS, ours)
    (best,) = texts.as_retriever(search_kwargs={"k": 1}).invoke("the root of a function")
    assert best.page_content == TEXTS[1]
    assert asyncio.run(texts.asimilarity_search("the root of a function", k=1)) == [best]


@pytest.mark.oracle
@pytest.mark.filterwarnings("default")
def test_chroma(model, tmp_path):
    chromadb = library("chromadb")
    settings = library("chromadb.config").Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path), settings=settings)
    function = ChromaEmbeddingFunction(model, dtype="int8")
    made = client.create_collection("texts", embedding_function=function)
    made.add(ids=list("abcd"), documents=TEXTS)
    assert made.configuration_json["hnsw"]["space"] == "cosine"
    assert made.configuration_json["embedding_function"]["config"] == function.get_config()
    with_name = client.get_collection("texts", embedding_function=function)
    for collection in (made, with_name, client.get_collection("texts")):
        assert collection.query(query_texts=["the root of a function"], n_results=1)["ids"] == [["b"]]
    stored = made.get(include=["embeddings"])["embeddings"]
    np.testing.assert_allclose(stored, function(TEXTS), rtol=1e-6)
    made.upsert(ids=["b"], documents=["a cat ran"])
    made.delete(ids=["a"])
    assert made.count() == 3


@pytest.mark.oracle
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("way", ["pipeline", "langchain"])
def test_bertopic(way, model):
    bertopic = library("bertopic")
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline

    from pyattn.sklearn import SentenceVectorizer

    if way == "pipeline":
        embedder = make_pipeline(SentenceVectorizer(model))
    else:
        embedder = library("bertopic.backend._langchain").LangChainBackend(LangChainEmbeddings(model))
    topics = bertopic.BERTopic(
        embedding_model=embedder, umap_model=PCA(2), hdbscan_model=KMeans(2, random_state=0), min_topic_size=2
    )
    found, _ = topics.fit_transform(TEXTS * 3)
    assert found[:4] * 3 == found and set(found) == {0, 1}
    embeddings = topics.embedding_model.embed_documents(TEXTS)
    encoder = pyattn.SentenceEncoder.from_pretrained(model)
    expected = encoder.encode(TEXTS) if way == "pipeline" else encoder.encode_document(TEXTS)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-6)
    assert topics.find_topics("a cat", top_n=1)[0] in ([0], [1])
