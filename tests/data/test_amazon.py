"""Amazon's own files, in hand-written miniatures of both years."""

import gzip
import json
import zipfile

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid_lib.data import amazon, drop_incomplete_items, read_amazon
from semid_lib.encoders.text import item_texts
from semid_lib.errors import DataError, SemidError


def review(user, item, time, summary, stars=5):
    return json.dumps(
        {
            "reviewerID": user,
            "asin": item,
            "overall": stars,
            "unixReviewTime": time,
            "summary": summary,
        }
    )


REVIEWS = "\n".join(
    [
        review("B", "x", 30, "B takes x third"),
        review("A", "y", 20, "A takes y second"),
        review("B", "y", 10, "B takes y first"),
        review("A", "x", 10, "A takes x first"),
        review("B", "z", 20, "B takes z second"),
        review("A", "z", 20, "A takes z third, same day, later in the file"),
        review("B", "w", 5, ""),
        review("A", "w", 99, "A takes w last"),
    ]
)


@pytest.mark.parametrize("form", ["plain", "gz", "zip"])
def test_reviews_by_hand(tmp_path, form):
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "r.zip", "w") as file:
            file.writestr("some/reviews.json", REVIEWS)
    elif form == "gz":
        (tmp_path / "r.json.gz").write_bytes(gzip.compress(REVIEWS.encode()))
    else:
        (tmp_path / "r.json").write_text(REVIEWS)
    data = amazon.read_reviews(tmp_path, ["r.zip", "r.json"], "hand")
    # B is user 0 (first line). B: w5 y10 | z20 x30. A: x10 y20 | z20 w99.
    assert data.items["asin"].tolist() == ["w", "y", "z", "x"]
    assert [s.tolist() for s in data.sequences()] == [[0, 1, 2, 3], [3, 1, 2, 0]]
    assert data.items["train_review_summaries"].fillna("").tolist() == [
        "", "B takes y first | A takes y second", "", "A takes x first"
    ]  # fmt: skip
    assert data.items["n_train_reviews"].tolist() == [1, 2, 0, 1]


def test_joined_headlines_stop_at_400_characters():
    texts = pd.Series(["a" * 200, "b" * 190, "c" * 10, "d"])
    assert amazon.join_headlines(texts) == "a" * 200 + " | " + "b" * 190
    assert len(amazon.join_headlines(texts)) <= 400


@pytest.mark.parametrize("line", ["{", "[]", '{"asin": "x"}', review("u", "i", "soon", "s")])
def test_malformed_reviews(line):
    with pytest.raises(DataError, match="line 2: not an Amazon review record"):
        amazon.parse_reviews([review("u", "i", 1, "s").encode(), line.encode()], "r.json")
    with pytest.raises(DataError, match="no reviews"):
        amazon.parse_reviews([b"\n"], "r.json")


def write_lines(path, records, literal=False):
    lines = [repr(r) if literal else json.dumps(r) for r in records]
    payload = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(payload) if path.suffix == ".gz" else payload)
    return path


PAIRS = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("v", "c", 1), ("v", "a", 2), ("w", "d", 9)]


@pytest.fixture(params=[2014, 2023])
def subset(request, tmp_path):
    """Users u (a b c) and v (c a); w, b and d fall out of the 2-core."""
    if request.param == 2014:
        reviews = [json.loads(review(*pair, f"{pair[0]} on {pair[1]}")) for pair in PAIRS]
        items = [
            {"asin": "a", "title": "It's A", "brand": "Acme",
             "categories": [["Root", "L1", "L2", "L3", "L4"], ["Other"]]},
            {"asin": "c", "description": "about c", "categories": [["Root", "L1"]]},
            {"asin": "z", "title": "never bought"},
        ]  # fmt: skip
        meta = write_lines(tmp_path / "meta.json.gz", items, literal=True)
    else:
        reviews = [
            {"user_id": u, "parent_asin": i, "asin": "child", "rating": 4.0,
             "timestamp": 1_600_000_000_000 + t, "title": f"{u} on {i}"}
            for u, i, t in PAIRS
        ]  # fmt: skip
        items = [
            {"parent_asin": "a", "title": "It's A", "store": "Acme",
             "categories": ["Root", "L1", "L2", "L3", "L4"], "description": []},
            {"parent_asin": "c", "title": None, "store": None, "categories": ["Root", "L1"],
             "description": ["about", "c"]},
        ]  # fmt: skip
        meta = write_lines(tmp_path / "meta.jsonl", items)
    path = write_lines(tmp_path / "Things.json.gz", reviews)
    return request.param, path, meta


def test_both_years_give_the_same_catalogue(subset):
    year, reviews, meta = subset
    data = read_amazon(reviews, meta, k=2)
    maker = "brand" if year == 2014 else "store"
    assert data.name == "Things" and data.item_ids.tolist() == ["a", "c"]
    assert data.user_ids.tolist() == ["u", "v"]
    assert [s.tolist() for s in data.sequences()] == [[0, 1], [1, 0]]
    assert list(data.fields) == [maker, "category_1", "category_2", "category_3"]
    assert [data.fields[f].tolist() for f in data.fields] == [[0, -1], [0, 0], [0, -1], [0, -1]]
    assert data.field_values["category_1"] == ["L1"]
    title, about = item_texts(data)
    assert title.startswith("It's A. Acme. Root, L1, L2")
    assert about.startswith("Root, L1. about c")
    assert data.timestamp[0] == (1 if year == 2014 else 1_600_000_000)
    assert read_amazon(reviews, k=1).num_items == 4 and not read_amazon(reviews, k=2).fields
    with pytest.raises(DataError, match="no 3-core"):
        read_amazon(reviews, meta, k=3)
    assert drop_incomplete_items(data).item_ids.tolist() == ["a"]


def test_files_that_are_missing_cut_short_or_of_another_kind(subset, tmp_path):
    _, reviews, meta = subset
    with pytest.raises(DataError, match="cannot be read"):
        read_amazon(tmp_path / "none.json")
    with pytest.raises(DataError, match="line 1: not an Amazon item record"):
        read_amazon(reviews, write_lines(tmp_path / "m.json", [[1]]), k=1)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        file.writestr("a", "")
        file.writestr("b", "")
    with pytest.raises(DataError, match="one file, not 2"):
        read_amazon(tmp_path / "two.zip")
    reviews.write_bytes(reviews.read_bytes()[:-9])
    with pytest.raises(DataError, match="cut short"):
        read_amazon(reviews, k=1)


KEYS = st.sampled_from(
    "reviewerID asin overall unixReviewTime summary user_id parent_asin rating timestamp title "
    "categories brand store description".split()
)
json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | json_values.map(lambda v: json.dumps(v).encode()))
def test_fuzz_records(payload):
    for parse in (amazon.parse_reviews, lambda p, w: amazon.parse_metadata(p, w, {"x", "None"})):
        try:
            assert isinstance(parse(payload.split(b"\n"), "f"), pd.DataFrame)
        except SemidError:
            pass
