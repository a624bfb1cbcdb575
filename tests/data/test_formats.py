"""The published forms, on hand-written files and on the exact bytes where they are here."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid_lib.data import Interactions, formats, load_dataset
from semid_lib.data.folders import read_folder
from semid_lib.data.sources import SOURCES
from semid_lib.errors import DataError, SemidError


@pytest.mark.parametrize("name", ["beauty", "sports", "toys", "lastfm"])
def test_s3rec_bytes_and_uniform_form_give_the_same_sequences(shared_data, name):
    raw = SOURCES[name].read(shared_data / "raw" / "s3rec")
    uniform = read_folder(shared_data / name)
    np.testing.assert_array_equal(raw.user, uniform.user)
    np.testing.assert_array_equal(raw.item, uniform.item)
    assert raw.num_items == uniform.num_items and raw.num_users == uniform.num_users
    assert raw.sequences_sha256 == uniform.sequences_sha256


@pytest.mark.parametrize("name", ["beauty", "sports", "toys"])
def test_s3rec_attributes_give_the_codes_of_the_named_fields(shared_data, name):
    """The uniform form separated brand and categories with the help of names; we have none."""
    raw = SOURCES[name].read(shared_data / "raw" / "s3rec")
    uniform = load_dataset(shared_data / name, fields=formats.CATEGORY_FIELDS)
    assert list(raw.fields) == ["brand", "category_1", "category_2", "category_3"]
    for field in raw.fields:
        np.testing.assert_array_equal(raw.fields[field], uniform.fields[field], err_msg=field)
    assert raw.sha256 == uniform.sha256


def test_lastfm_attributes_are_not_used_as_they_hold_held_out_tags(shared_data):
    assert not SOURCES["lastfm"].read(shared_data / "raw" / "s3rec").fields


def test_lines():
    user, item = formats.parse_lines(b"1 1 2 3\n2 3 1\n\n"[:-1], "x")
    assert user.tolist() == [0, 0, 0, 1, 1] and item.tolist() == [0, 1, 2, 2, 0]
    assert user.dtype == item.dtype == np.int64


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "empty"),
        (b"1 1 2\n2\n", "line 2: expected"),
        (b"1 1 2\n2 x\n", "line 2: expected"),
        (b"1 1 2\n\n2 1\n", "line 2: expected"),
        (b"1 1 -2\n", "line 1: expected"),
        (b"1 1 3\n", "must be 1..N without a gap"),
        (b"1 0 1\n", "must be 1..N without a gap"),
        (b"1 99999999999999999999\n", "line 1: expected"),
        (b"1 1 2\n1 1\n", "two lines"),
    ],
)
def test_malformed_lines(payload, message):
    with pytest.raises(DataError, match=message):
        formats.parse_lines(payload, "f.txt")


LAYOUT = {"starts": {10, 20}, "root": 10, "no_brand": {9}}


def attributes(lists, num_items=3, **layout):
    payload = json.dumps(lists).encode()
    table = formats.attributes_to_fields(payload, num_items, "a.json", **(layout or LAYOUT))
    return table.to_numpy().tolist()


def test_attribute_lists_by_hand():
    lists = {"1": [5, 10, 11, 12, 13, 14], "2": [9, 20, 21, 10, 15], "3": [5]}
    assert attributes(lists) == [
        [0, "attr_5", "attr_11", "attr_12", "attr_13"],
        [1, "", "attr_15", "", ""],
        [2, "attr_5", "", "", ""],
    ]
    beauty = {"starts": {1, 4}, "root": None, "no_brand": set()}
    assert attributes({"1": [1, 2, 4, 6], "2": [7, 4, 8]}, 2, **beauty) == [
        [0, "", "attr_1", "attr_2", ""],
        [1, "attr_7", "attr_4", "attr_8", ""],
    ]


@pytest.mark.parametrize("payload", [b"", b"[1]", b'{"1": 5}', b'{"x": [1]}', b'{"1": ["a"]}'])
def test_malformed_attributes(payload):
    with pytest.raises(DataError, match="not a JSON object of lists"):
        formats.attributes_to_fields(payload, 3, "a.json", **LAYOUT)


def test_attributes_of_an_item_without_sequences():
    with pytest.raises(DataError, match="has item 4, but the sequences have 1..3"):
        attributes({"4": [1]})


def tolerate(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except SemidError:
        return None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.text("0123456789 \n-٣", max_size=60).map(str.encode))
def test_fuzz_lines(payload):
    found = tolerate(formats.parse_lines, payload, "f")
    if found is not None:
        user, item = found
        Interactions(user, item, int(user[-1]) + 1, int(item.max()) + 1)


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | json_values.map(lambda v: json.dumps(v).encode()))
def test_fuzz_attributes(payload):
    tolerate(formats.attributes_to_fields, payload, 3, "a.json", **LAYOUT)


RECBOLE = {
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "10\t3\t5\t100\n2\t1\t1\t50\n10\t1\t3\t100\n10\t4\t4\t20\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tUsual Suspects, The\t1995\tCrime Thriller\n2\tNobody Rated This\t1990\tDrama\n"
    "3\tunkonwn\tunkonwn\tunknown\n4\tLand Before Time III (1995)\tV\tAnimation Children's Drama\n",
}
RATINGS = [row.split("\t") for row in RECBOLE["ml-100k.inter"].splitlines()[1:]]


def grouplens_100k():
    def line(number, title, *genres):
        flags = ["1" if g in genres else "0" for g in formats.ML100K_GENRES]
        return "|".join([number, title, "01-Jan-1995", "", "http://x", *flags])

    items = [
        line("1", "Usual Suspects, The (1995)", "Crime", "Thriller"),
        line("2", "Nobody Rated This (1990)", "Drama"),
        line("3", "unknown", "unknown"),
        line("4", "Land Before Time III (1995) (V)", "Animation", "Children's", "Drama"),
    ]
    return {"u.data": "\n".join("\t".join(r) for r in RATINGS), "u.item": "\n".join(items)}


def grouplens_1m():
    movies = [
        "1::Usual Suspects, The (1995)::Crime|Thriller",
        "2::Nobody Rated This (1990)::Drama",
        "3::unknown::unknown",
        "4::Land Before Time III (1995) (V)::Animation|Children's|Drama",
    ]
    ratings = "\n".join("::".join(r) for r in RATINGS)
    return {"ratings.dat": ratings, "movies.dat": "\n".join(movies)}


def write(folder, files, zipped=None):
    if zipped:
        with zipfile.ZipFile(folder / f"{zipped}.zip", "w") as file:
            for name, text in files.items():
                file.writestr(f"{zipped}/{name}", text.encode("latin-1"))
    else:
        for name, text in files.items():
            (folder / name).write_bytes(text.encode("latin-1"))
    return folder


@pytest.mark.parametrize("form", ["recbole", "100k", "100k-zip", "1m", "1m-zip"])
def test_every_movielens_form_gives_the_same_data(tmp_path, form):
    name = "ml-1m" if form.startswith("1m") else "ml-100k"
    files = (
        RECBOLE if form == "recbole" else grouplens_1m() if name == "ml-1m" else grouplens_100k()
    )
    data = formats.read_movielens(write(tmp_path, files, form.endswith("zip") and name), name)
    # users 2 and 10 in number order; movie 2 was never rated; equal seconds keep the file's order
    assert [s.tolist() for s in data.sequences()] == [[0], [2, 1, 0]]
    assert data.rating.tolist() == [1, 4, 5, 3] and data.timestamp.tolist() == [50, 20, 100, 100]
    assert data.items["title"].tolist() == [
        "The Usual Suspects (1995)", "unknown", "Land Before Time III (1995)"
    ]  # fmt: skip
    printed = {
        f: [None if c < 0 else data.field_values[f][c] for c in codes]
        for f, codes in data.fields.items()
    }
    assert printed == {
        "genre": ["Crime", None, "Animation"],
        "genre_2": ["Thriller", None, "Children's"],
        "genres": ["Crime|Thriller", None, "Animation|Children's|Drama"],
        "year": ["1995", None, "1995"],
    }
    assert data.item_ids is None and data.user_ids is None


@pytest.mark.parametrize(
    ("title", "readable"),
    [
        ("Star Wars", "Star Wars (1977)"),
        ("Hate (Haine, La)", "Hate (La Haine) (1977)"),
        ("Flower of My Secret, The (Flor de mi secreto, La)",
         "The Flower of My Secret (La Flor de mi secreto) (1977)"),
        ("Enfer, L'", "L'Enfer (1977)"),
        ("Paris, Texas", "Paris, Texas (1977)"),
        ("American in Paris, An", "An American in Paris (1977)"),
    ],
)  # fmt: skip
def test_readable_titles(title, readable):
    assert formats._readable_title(title, "1977") == readable


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("u.data", "1\t1\t5\n", "u.data should have 4 columns, but line 1 has 3"),
        ("u.data", "", "it is empty"),
        ("u.data", "x\t1\t5\t9\n", "without a number"),
        ("u.data", "1\t77\t5\t9\n", "rated movie '77' is not listed"),
        ("u.data", "1\t1\t5\tsoon\n", "timestamp is not numeric"),
        ("u.item", "1|x\n", "u.item should have 24 columns"),
    ],
)
def test_malformed_movielens(tmp_path, file, text, message):
    write(tmp_path, {**grouplens_100k(), file: text})
    with pytest.raises(DataError, match=message):
        formats.read_movielens(tmp_path, "ml-100k")


def test_movielens_zip_cut_short(tmp_path):
    path = write(tmp_path, grouplens_100k(), "ml-100k") / "ml-100k.zip"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="cut short"):
        formats.read_movielens(tmp_path, "ml-100k")
