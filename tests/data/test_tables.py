"""The bring-your-own folder: what it accepts, what it refuses, and a fuzz of both."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from semid_lib.data import Interactions, load_dataset, synthetic_catalogue
from semid_lib.data.folders import write_folder
from semid_lib.errors import DataError, SemidError

INTERACTIONS = "user,item,position\n0,1,0\n0,0,1\n1,2,0\n"
ITEMS = "item,brand,title\n0,b,Zero\n1,,One\n2,b,Two\n"


@pytest.fixture
def folder(tmp_path):
    def make(interactions=INTERACTIONS, items=ITEMS, zipped=False):
        for name, text in (("interactions.csv", interactions), ("items.csv", items)):
            if text is None:
                continue
            payload = text if isinstance(text, bytes) else text.encode()
            if zipped:
                (tmp_path / f"{name}.gz").write_bytes(gzip.compress(payload))
            else:
                (tmp_path / name).write_bytes(payload)
        return tmp_path

    return make


@pytest.mark.parametrize("zipped", [False, True])
def test_folder_plain_or_gzipped(folder, zipped):
    data = load_dataset(folder(zipped=zipped), fields=["brand"])
    assert [s.tolist() for s in data.sequences()] == [[1, 0], [2]]
    assert data.items["title"].tolist() == ["Zero", "One", "Two"]
    assert data.fields["brand"].tolist() == [0, -1, 0]
    assert data.item_ids is None and data.ordered
    assert data.name == folder().name


def test_fields_can_be_chosen(folder):
    assert list(load_dataset(folder(), fields=["title"]).fields) == ["title"]
    with pytest.raises(DataError, match="no field 'colour'"):
        load_dataset(str(folder()), fields=["colour"])


def field_texts(data):
    """The fields' values item by item, "" where missing: free of how values are numbered."""
    values = {n: [*map(str, data.field_values.get(n, range(c.max() + 1))), ""]
              for n, c in data.fields.items()}  # fmt: skip
    return {name: [values[name][code] for code in codes] for name, codes in data.fields.items()}


def test_what_is_written_is_read_back(tmp_path):
    rows = {"user": ["b", "b", "a", "b"], "item": ["007", "x,\"y\"", "007", "é"],
            "timestamp": [5, 9, 7, 5], "rating": [0.1, np.nan, 4, 2]}  # fmt: skip
    items = pd.DataFrame(
        {"item": ["é", "007", "x,\"y\"", "never"], "kind": ["one\r\ntwo", "", "NA", "NA"],
         "title": ["a", "\ud800 b", None, "nan"], "year": [1999, None, 2001, 1999]}
    )  # fmt: skip
    table = Interactions.from_frame(pd.DataFrame(rows), items, ["kind", "year"])
    drawn = synthetic_catalogue(60, 40, branching=(2, 2, 1), num_communities=2)[0]
    plain = Interactions.from_frame(pd.DataFrame({"user": [3, 3, 4], "item": [1, 0, 1]}))
    for data in (table, drawn, plain):
        folder = write_folder(data, tmp_path / data.name / str(data.num_items))
        read = load_dataset(folder)
        assert read.sequences_sha256 == data.sequences_sha256 and read.ordered == data.ordered
        assert field_texts(read) == field_texts(data)
        for name in ("item_ids", "user_ids", "timestamp", "rating"):
            ours, theirs = getattr(read, name), getattr(data, name)
            assert (ours is None) == (theirs is None), name
            if ours is not None:
                np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(DataError, match="holds interactions already"):
            write_folder(data, folder)
    again = load_dataset(tmp_path / "table" / "4")
    assert again.items["title"].fillna("").tolist() == ["a", "? b", "", "nan"]
    assert list(load_dataset(folder, []).fields) == []


def test_without_position_or_time_it_is_unordered(folder):
    assert not load_dataset(folder("user,item\n0,0\n0,1\n", None)).ordered


def test_ids_with_gaps_and_text_ids_are_mapped(folder):
    data = load_dataset(folder("user,item,position\n7,500,0\n7,20,1\n9,20,0\n", None))
    assert data.user_ids.tolist() == [7, 9] and data.item_ids.tolist() == [20, 500]
    assert data.item.tolist() == [1, 0, 0]
    data = load_dataset(folder("user,item,position\na,007,0\na,7,1\n", None))
    assert data.item_ids.tolist() == ["007", "7"], "leading zeros must not be lost"


def test_numbers_in_one_file_and_text_in_the_other_still_match(folder):
    data = load_dataset(folder("user,item,position\n0,10,0\n", "item,t\n10,a\nx,b\n"))
    assert data.item_ids.tolist() == ["10", "x"]


def test_times_and_ratings(folder):
    text = "user,item,timestamp,rating\n0,0,30,5\n0,1,10,\n"
    data = load_dataset(folder(text, None))
    assert data.item.tolist() == [1, 0] and data.timestamp.tolist() == [10, 30]
    assert np.isnan(data.rating[0]) and data.rating[1] == 5


@pytest.mark.parametrize(
    ("interactions", "items", "message"),
    [
        (None, ITEMS, "holds no interactions.csv"),
        ("", ITEMS, "not a readable table"),
        ("user,item,position\n", ITEMS, "empty"),
        ("user,thing\n0,0\n", ITEMS, "no column 'item'"),
        ("user,item,item\n0,0,0\n", ITEMS, "'item' occurs twice"),
        ("user,item,position\n0,0\n1\n", ITEMS, "item id missing in 1 rows"),
        ("user,item,position\n0,0,0,9,9\n", ITEMS, "not a readable table"),
        ("user,item,position\n0,0,x\n", ITEMS, "position is not numeric"),
        ("user,item,position\n0,3,0\n", ITEMS, "1 items of the interactions are not in the items"),
        (INTERACTIONS, "item,t\n0,a\n0,b\n1,c\n2,d\n", "item 0 has 2 rows"),
        (INTERACTIONS, "title\na\n", "exactly one column 'item'"),
        (b"\xff\xfe\x00user", ITEMS, "not a readable table"),
        (gzip.compress(b"user,item\n0,0\n", mtime=0), None, "not a readable table"),
    ],
)
def test_malformed_folders(folder, interactions, items, message):
    with pytest.raises(DataError, match=message):
        load_dataset(folder(interactions, items))


@pytest.mark.parametrize("cut", [5, 100, 400])
def test_gzip_cut_short(folder, tmp_path, cut):
    rows = "".join(f"{u},{(u * u) % 97},0\n" for u in range(500))
    path = folder("user,item,position\n" + rows, None, zipped=True) / "interactions.csv.gz"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match="cut short"):
        load_dataset(tmp_path)


def attempt(folder):
    """Loading gives data or one of our errors, nothing else."""
    try:
        assert isinstance(load_dataset(folder), Interactions)
    except SemidError as error:
        assert str(error)


FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(interactions=st.binary(max_size=60), items=st.none() | st.binary(max_size=60))
@example(interactions=b"user,item\n0,0\n\x00,1\n", items=None)
@example(interactions=b'user,item\n"0,0\n', items=None)
@example(interactions=b"user,item\r0,0\r", items=b"item\r0\r")
def test_fuzz_arbitrary_bytes(folder, interactions, items, tmp_path):
    (tmp_path / "items.csv").unlink(missing_ok=True)
    attempt(folder(interactions, items))


cells = st.sampled_from(
    [
        "0",
        "1",
        "2",
        "-1",
        "",
        "x",
        "1e3",
        "nan",
        "inf",
        "1.5",
        '"',
        "9" * 30,
        "1_0",
        "é",
        "NA",
        " 3",
    ]
)


@FUZZ
@given(
    st.lists(st.sampled_from("user item position timestamp rating brand".split()), max_size=6),
    st.lists(st.lists(cells, min_size=1, max_size=6), max_size=8),
    st.lists(st.lists(cells, min_size=2, max_size=2), max_size=5),
)
def test_fuzz_mutated_tables(folder, header, rows, items):
    lines = [",".join(row) for row in [header, *rows]]
    attempt(folder("\n".join(lines), "\n".join(["item,brand", *(",".join(r) for r in items)])))


@FUZZ
@given(st.integers(0, 120), st.binary(max_size=3), st.integers(0, 8))
def test_fuzz_a_good_file_with_bytes_replaced(folder, place, patch, gap):
    text = INTERACTIONS.encode()
    attempt(folder(text[:place] + patch + text[place + gap :]))
