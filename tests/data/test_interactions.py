"""Tables in memory become Interactions: order, ids, fields, and clear refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid_lib.data import MISSING, Interactions, leave_one_out
from semid_lib.errors import DataError


def frame(**columns):
    return pd.DataFrame({"user": [0, 0, 1], "item": [0, 1, 1], **columns})


def test_rows_are_sorted_by_user_then_time_and_ties_keep_their_order():
    table = pd.DataFrame(
        {
            "user": [1, 0, 1, 0, 1],
            "item": [4, 3, 2, 1, 0],
            "timestamp": [20, 30, 10, 30, 20],
            "rating": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )
    data = Interactions.from_frame(table)
    assert [s.tolist() for s in data.sequences()] == [[3, 1], [2, 4, 0]]
    assert data.timestamp.tolist() == [30, 30, 10, 20, 20]
    assert data.rating.tolist() == [2, 4, 3, 1, 5]
    assert data.ordered and data.item_ids is None and data.user_ids is None


def test_position_decides_among_equal_times_and_alone():
    table = frame(timestamp=[5, 5, 5], position=[1, 0, 0])
    assert Interactions.from_frame(table).sequences()[0].tolist() == [1, 0]
    assert Interactions.from_frame(table.drop(columns="timestamp")).item.tolist() == [1, 0, 1]


def test_without_time_or_position_the_data_is_unordered_unless_told():
    assert not Interactions.from_frame(frame()).ordered
    assert Interactions.from_frame(frame(), ordered=True).ordered


def test_other_ids_are_mapped_once_and_kept():
    table = pd.DataFrame({"user": ["zoe", "al", "zoe"], "item": [70, 7, 7], "position": [0, 0, 1]})
    data = Interactions.from_frame(table)
    assert data.user_ids.tolist() == ["al", "zoe"] and data.item_ids.tolist() == [7, 70]
    assert [data.item_ids[s].tolist() for s in data.sequences()] == [[7], [70, 7]]
    assert data.item_ids.dtype == np.int64


def test_mixed_and_float_ids():
    data = Interactions.from_frame(frame().assign(item=["a", 1, 1]))
    assert data.item_ids.tolist() == ["a", 1]
    assert Interactions.from_frame(frame().assign(item=[0.0, 1.0, 1.0])).item_ids is None


def test_items_table_sets_the_catalogue_and_its_order():
    items = pd.DataFrame({"item": ["x", "b", "a"], "title": ["X", "B", "A"]})
    data = Interactions.from_frame(frame().assign(item=["a", "b", "a"]), items)
    assert data.num_items == 3 and data.item_ids.tolist() == ["x", "b", "a"]
    assert data.items["title"].tolist() == ["X", "B", "A"] and data.item.tolist() == [2, 1, 2]


def test_items_table_with_ids_0_to_n_in_any_order_is_sorted():
    items = pd.DataFrame({"item": [2, 0, 1], "title": ["two", "zero", "one"]})
    data = Interactions.from_frame(frame(), items)
    assert data.item_ids is None and data.items["title"].tolist() == ["zero", "one", "two"]


def test_fields_are_coded_by_first_appearance_and_gaps_are_missing():
    items = pd.DataFrame(
        {
            "item": [0, 1, 2, 3],
            "brand": ["b", None, "a", "b"],
            "year": [1999, np.nan, 1999, 2001],
            "empty": ["", "x", "x", ""],
        }
    )
    data = Interactions.from_frame(frame(), items, ["brand", "year", "empty"])
    assert data.fields["brand"].tolist() == [0, MISSING, 1, 0]
    assert data.field_values == {"brand": ["b", "a"], "year": ["1999", "2001"], "empty": ["x"]}
    assert data.fields["year"].tolist() == [0, MISSING, 0, 1]
    assert data.fields["empty"].tolist() == [MISSING, 0, 0, MISSING]
    assert data.fields["brand"].dtype == np.int64


def test_columns_that_repeat_are_fields_by_default():
    items = pd.DataFrame({"item": range(4), "title": list("wxyz"), "kind": list("abab"), "one": 1})
    data = Interactions.from_frame(frame(), items)
    assert list(data.fields) == ["kind"]
    assert not Interactions.from_frame(frame(), items, []).fields


def test_dates_become_seconds():
    days = pd.to_datetime(["1970-01-02", "1970-01-01", "1970-01-03"])
    assert Interactions.from_frame(frame(timestamp=days)).timestamp.tolist() == [0, 86400, 172800]
    berlin = days.tz_localize("Europe/Berlin")
    assert Interactions.from_frame(frame(timestamp=berlin)).timestamp[0] == -3600


ITEMS = pd.DataFrame({"item": [0, 1], "brand": ["a", "a"]})
TWICE = pd.DataFrame([[0, 0, 0]], columns=["user", "item", "user"])


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ([1, 2], {}, "expected a pandas DataFrame, not list"),
        (frame().drop(columns="item"), {}, "no column 'item'.*rename"),
        (frame().iloc[:0], {}, "empty"),
        (TWICE, {}, "'user' occurs 2 times"),
        (frame(user=[0, None, 1]), {}, r"user id missing in 1 rows \(first: row 1\)"),
        (frame(item=["a", None, "b"]), {}, "item id missing"),
        (frame(item=[0.5, 1, 2]), {}, "fractional"),
        (frame(item=[[1], [2], [3]]), {}, "hashable"),
        (frame(timestamp=["soon", "1", "2"]), {}, "timestamp is not numeric.*to_datetime"),
        (frame(timestamp=[1, np.nan, 2]), {}, "timestamp is missing"),
        (frame(timestamp=[1, 2, 1.7e12]), {}, "milliseconds"),
        (frame(position=["a", "b", "c"]), {}, "position is not numeric"),
        (frame(rating=["good", "1", "2"]), {}, "rating is not numeric"),
        (frame(rating=[1, np.inf, 2]), {}, "rating is infinite"),
        (frame(), {"fields": ["brand"]}, "no items table"),
        (frame(), {"items": ITEMS, "fields": ["colour"]}, "no field 'colour'"),
        (frame(), {"items": ITEMS.drop(columns="item")}, "exactly one column 'item'"),
        (frame(), {"items": ITEMS.iloc[:0]}, "items table is empty"),
        (frame(), {"items": ITEMS.iloc[:1]}, "1 items of the interactions are not in the items"),
        (frame(), {"items": ITEMS.assign(item=["0", "1"])}, "another kind"),
        (frame(), {"items": pd.concat([ITEMS, ITEMS[:1]])}, "item 0 has 2 rows"),
        (frame(), {"items": ITEMS.set_axis(["item", "item"], axis=1)}, "exactly one column"),
    ],
)
def test_refusals_name_the_cause(table, options, message):
    with pytest.raises(DataError, match=message):
        Interactions.from_frame(table, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": np.array([0, 9])}, "item 9 is outside 0..1"),
        ({"item": np.array([0, -1])}, "item -1 is outside"),
        ({"user": np.array([0.0, 1.0])}, "user must be a 1-d int64"),
        ({"user": np.array([1, 0])}, "row 1 goes back to user 0"),
        ({"item": np.array([0])}, "2 users beside 1 items"),
        ({"user": np.array([0, 0]), "timestamp": np.array([2, 1])}, "time of user 0 goes back"),
        ({"fields": {"f": np.zeros(5, np.int64)}}, "field 'f' has shape"),
    ],
)
def test_constructor_checks_what_it_is_given(change, message):
    given_ = {"user": np.array([0, 1]), "item": np.array([0, 1]), "num_users": 2, "num_items": 2}
    with pytest.raises(DataError, match=message):
        Interactions(**{**given_, **change})


def test_counts_and_hashes():
    data = Interactions.from_frame(frame(position=[0, 1, 0]), ITEMS, ["brand"])
    assert (data.num_users, data.num_items, data.num_interactions) == (2, 2, 3)
    assert data.density == 0.75 and data.indptr.tolist() == [0, 2, 3]
    bare = Interactions.from_frame(frame(position=[0, 1, 0]))
    other = Interactions.from_frame(frame(position=[1, 0, 0]))
    assert data.sequences_sha256 == bare.sequences_sha256 != other.sequences_sha256
    assert data.sha256 != bare.sha256


id_strategies = st.sampled_from(
    [st.integers(-50, 50), st.integers(0, 5), st.text(max_size=3), st.integers(10**17, 10**18)]
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_round_trip_from_any_table(draw):
    """Mapped back to the original ids, the sequences are those of a plain dictionary walk."""
    users, items = draw.draw(id_strategies), draw.draw(id_strategies)
    rows = draw.draw(st.lists(st.tuples(users, items, st.integers(0, 9)), min_size=1, max_size=30))
    data = Interactions.from_frame(pd.DataFrame(rows, columns=["user", "item", "timestamp"]))
    truth = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        truth.setdefault(user, []).append(item)
    found = {}
    for u, sequence in enumerate(data.sequences()):
        original = sequence if data.item_ids is None else data.item_ids[sequence]
        found[u if data.user_ids is None else data.user_ids[u]] = list(original)
    assert found == truth
    assert data.item_ids is not None or set(data.item) == set(range(data.num_items))


def test_a_dataset_and_its_split_print_as_one_short_line():
    frame = pd.DataFrame({"user": [0] * 3, "item": [0, 1, 2], "position": [0, 1, 2]})
    data = Interactions.from_frame(frame, name="tiny")
    assert repr(data) == "Interactions(tiny: 1 users, 3 items, 3 rows, ordered, fields none)"
    assert repr(leave_one_out(data)) == "Split(tiny: 1 rows to learn from, 1 users to ask)"
