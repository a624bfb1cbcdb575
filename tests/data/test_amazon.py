"""Amazon's own files, in hand-written miniatures of both years."""

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from semid_lib.cli import app
from semid_lib.data import amazon, drop_incomplete_items, load_dataset, read_amazon
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


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"asin": "x"}', review("u", "i", "soon", "s"), review("u", "i", 2**63, "")]
)
def test_malformed_reviews(line, tmp_path):
    (tmp_path / "r.json").write_text("\n".join([review("u", "i", 1, "s"), line]))
    with pytest.raises(DataError, match="r.json, line 2: not an Amazon review record"):
        read_amazon(tmp_path / "r.json", k=2)
    (tmp_path / "r.json").write_text("\n")
    with pytest.raises(DataError, match="no reviews"):
        read_amazon(tmp_path / "r.json", k=2)
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


def test_the_command_makes_a_folder_of_ones_own(subset, tmp_path):
    """Sequences, fields and texts as from the raw files; with --complete ReSID's filter."""
    year, reviews, meta = subset
    maker = "brand" if year == 2014 else "store"
    data = read_amazon(reviews, meta, k=2)
    command = ["data", "import", str(reviews), "--metadata", str(meta), "--k", "2"]
    run = CliRunner().invoke(app, [*command, str(tmp_path / "things")])
    assert run.exit_code == 0 and "2 users, 2 items, 4 rows" in run.output
    read = load_dataset(tmp_path / "things")
    assert list(read.fields) == [maker, "category_1", "category_2", "category_3"]
    assert read.sha256 == data.sha256 and item_texts(read) == item_texts(data)
    assert read.field_values == data.field_values
    assert (
        read.item_ids.tolist() == ["a", "c"] and read.timestamp.tolist() == data.timestamp.tolist()
    )
    run = CliRunner().invoke(app, [*command, "--complete", str(tmp_path / "whole")])
    assert run.exit_code == 0
    assert load_dataset(tmp_path / "whole").item_ids.tolist() == ["a"]
    run = CliRunner().invoke(app, ["data", "import", "no such file", str(tmp_path / "whole")])
    assert "holds interactions already" in str(run.exception)


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


def raw_reviews(year, pairs, times, headlines):
    """Records of one year, stars by row number."""
    for row, ((user, item), time, headline) in enumerate(zip(pairs, times, headlines)):
        if year == 2014:
            yield {"reviewerID": user, "asin": item, "overall": row % 5 + 1.0,
                   "unixReviewTime": int(time), "summary": headline}  # fmt: skip
        else:
            yield {"user_id": user, "parent_asin": item, "asin": "child", "rating": row % 5 + 1,
                   "timestamp": int(time), "title": headline}  # fmt: skip


def by_pandas(records, year, k):
    """The k-core in one table in memory: rows per user in time order, and the items' headlines."""
    old = ["reviewerID", "asin", "overall", "unixReviewTime", "summary"]
    new = ["user_id", "parent_asin", "rating", "timestamp", "title"]
    frame = pd.DataFrame(records)[old if year == 2014 else new]
    frame.columns = ["user", "item", "rating", "time", "headline"]
    while True:
        sizes = (frame.groupby(column)["time"].transform("size") for column in ("user", "item"))
        whole = np.logical_and.reduce([size >= k for size in sizes])
        if whole.all():
            break
        frame = frame[whole]
    frame["first"] = frame["user"].map({u: i for i, u in enumerate(frame["user"].unique())})
    frame = frame.sort_values(["first", "time"], kind="stable")
    group = frame.groupby("user")["time"]
    left = group.cumcount(ascending=False)
    train = frame[(left >= 2) | (group.transform("size") < 3)].sort_values("time", kind="stable")
    heads = {
        i: amazon.join_headlines(filter(None, rows))
        for i, rows in train.groupby("item")["headline"]
    }
    return frame, heads


@pytest.mark.parametrize("year", [2014, 2023])
@pytest.mark.parametrize("hashing", ["as it is", "nearly all ids collide"])
@pytest.mark.parametrize("seed", range(4))
def test_two_passes_give_what_one_table_in_memory_gives(year, hashing, seed, tmp_path, monkeypatch):
    if hashing != "as it is":
        monkeypatch.setattr(amazon, "hash", lambda text: len(text) % 7, raising=False)
    rng = np.random.default_rng(seed)
    pairs = [
        (f"u{'x' * (u % 9)}{u}", f"i{i}") for u, i in zip(rng.zipf(1.7, 900), rng.zipf(1.8, 900))
    ]
    times = rng.integers(40, size=900) * (1 if year == 2014 else 700)
    headlines = rng.choice(["", "good", "naïve \u2028 ☕", "so so"], 900)
    records = list(raw_reviews(year, pairs, times, headlines.tolist()))
    lines = [json.dumps(r, ensure_ascii=i % 2) for i, r in enumerate(records)]
    lines[10] = "\n \n" + lines[10]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    frame, heads = by_pandas(records, year, 3)
    data = read_amazon(tmp_path / "r.jsonl", k=3)
    assert 0 < len(frame) < 900
    wanted = {u: rows for u, rows in frame.groupby("user")}
    assert data.user_ids.tolist() == sorted(wanted)
    assert data.item_ids.tolist() == frame["item"].unique().tolist()
    assert data.items["train_review_summaries"].tolist() == [
        heads.get(i, "") for i in data.item_ids
    ]
    begin = data.indptr
    for number, user in enumerate(data.user_ids):
        rows = slice(begin[number], begin[number + 1])
        assert data.item_ids[data.item[rows]].tolist() == wanted[user]["item"].tolist()
        assert data.rating[rows].tolist() == wanted[user]["rating"].tolist()
        seconds = wanted[user]["time"] // (1 if year == 2014 else 1000)
        assert data.timestamp[rows].tolist() == seconds.tolist()


PEAK = """
import sys
import pandas as pd
from semid_lib.data import read_amazon
def field(name):
    lines = open("/proc/self/status").read().split("\\n")
    return 1024 * next(int(l.split()[1]) for l in lines if l.startswith(name))
def in_memory(path):
    columns = ["user_id", "parent_asin", "rating", "timestamp", "title"]
    return pd.read_json(path, lines=True)[columns]
open("/proc/self/clear_refs", "w").write("5")
before = field("VmRSS")
{"read_amazon": read_amazon, "in_memory": in_memory}[sys.argv[1]](sys.argv[2])
print(field("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's own figure")
def test_memory_stays_far_below_the_file(tmp_path):
    """Peaks of two processes on one file: ours, and a table read whole, which breaks the limit."""
    rng = np.random.default_rng(0)
    pairs = [(f"u{u}", f"i{i}") for u, i in rng.integers((9000, 900), size=(40_000, 2))]
    times = rng.integers(1_600_000_000_000, size=40_000)
    text = "so long a review " * 90
    with (tmp_path / "r.jsonl").open("w") as file:
        for record in raw_reviews(2023, pairs, times, ["fine"] * 40_000):
            file.write(json.dumps({**record, "text": text}) + "\n")
    limit = (tmp_path / "r.jsonl").stat().st_size / 3
    peaks = {}
    for way in ("read_amazon", "in_memory"):
        command = [sys.executable, "-c", PEAK, way, str(tmp_path / "r.jsonl")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[way] = int(done.stdout)
    assert peaks["read_amazon"] < limit < peaks["in_memory"], (peaks, limit)


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
