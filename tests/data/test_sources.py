"""Named datasets: found where they lie, fetched where they do not, refused if they are others."""

import gzip
import hashlib
import json
import shutil
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from semid_lib.data import fetch, leave_one_out, list_datasets, load_dataset, sources
from semid_lib.data.folders import write_folder
from semid_lib.errors import ChecksumError, DataError, DownloadError, UnorderedError

S3REC = {
    "beauty": "Beauty",
    "sports": "Sports_and_Outdoors",
    "toys": "Toys_and_Games",
    "lastfm": "LastFM",
}
LINES = {"office": "Office_Products.txt", "clothing": "Clothing.txt", "baby": "Baby.txt"}
SHARED = [*S3REC, *LINES, "instruments", "beauty-complete"]


@pytest.mark.parametrize("name", SHARED)
def test_uniform_copies_are_the_pinned_datasets(shared_data, name, monkeypatch):
    monkeypatch.setenv("SEMID_DATA", str(shared_data))
    data = load_dataset(name)
    info = next(info for info in list_datasets() if info.name == name)
    assert (data.num_users, data.num_items, data.num_interactions) == (
        info.users, info.items, info.interactions,
    )  # fmt: skip
    assert list(data.fields) == info.fields and data.name == name
    assert data.ordered == (name != "baby")
    lengths = np.diff(data.indptr)
    assert lengths.min() >= 5 and np.bincount(data.item).min() >= 5
    pairs = data.user * data.num_items + data.item
    assert len(np.unique(pairs)) == len(pairs), "no user has an item twice"


def test_unordered_baby_is_refused_for_sequential_use(shared_data, monkeypatch):
    monkeypatch.setenv("SEMID_DATA", str(shared_data))
    with pytest.raises(UnorderedError, match="'baby' has no time order"):
        leave_one_out(load_dataset("baby"))


@pytest.mark.parametrize("name", S3REC)
def test_s3rec_download_gives_the_sequences_of_the_uniform_form(
    name, shared_data, server, nowhere, monkeypatch
):
    """The very bytes that a connected reader fetches, from a server that hangs up once."""
    monkeypatch.setattr(sources, "GITHUB", server.url)
    address = sources.SOURCES[name].address
    for packed in (shared_data / "raw" / "s3rec").glob(f"{S3REC[name]}*.gz"):
        server.files[f"/{address}/{packed.stem}"] = gzip.decompress(packed.read_bytes())
    server.faults = [("cut", 65_536)]
    data = load_dataset(name)
    assert server.requests[1][1] == "bytes=65536-"
    assert not list(nowhere.rglob("*.part"))
    uniform = sources.read_folder(shared_data / name, sources.SOURCES[name].fields)
    np.testing.assert_array_equal(data.user, uniform.user)
    np.testing.assert_array_equal(data.item, uniform.item)
    if name != "lastfm":
        assert data.sha256 == uniform.sha256
    load_dataset(name)
    assert len(server.requests) == 3, "the second load reads the cache"


def lines_of(data):
    return "\n".join(
        " ".join(map(str, [u + 1, *(sequence + 1)])) for u, sequence in enumerate(data.sequences())
    )


@pytest.mark.parametrize("name", LINES)
def test_line_sources_are_rebuilt(name, shared_data, server, nowhere, monkeypatch):
    monkeypatch.setattr(sources, "GITHUB", server.url)
    uniform = sources.read_folder(shared_data / name, [])
    address = sources.SOURCES[name].address
    server.files[f"/{address}/{LINES[name]}"] = lines_of(uniform).encode()
    data = load_dataset(name)
    assert data.sequences_sha256 == uniform.sequences_sha256 and data.ordered == uniform.ordered


def test_a_line_source_that_changed_is_refused(shared_data, server, nowhere, monkeypatch):
    monkeypatch.setattr(sources, "GITHUB", server.url)
    text = lines_of(sources.read_folder(shared_data / "office", []))
    first, rest = text.split("\n", 1)
    swapped = " ".join([*first.split()[:-2], *first.split()[:-3:-1]])
    address = f"/{sources.SOURCES['office'].address}/{LINES['office']}"
    server.files[address] = f"{swapped}\n{rest}".encode()
    with pytest.raises(
        ChecksumError, match="does not hold 'office': 4905 users.*Remove that folder"
    ):
        load_dataset("office")


def test_instruments_are_rebuilt_from_the_zipped_reviews(shared_data, server, nowhere, monkeypatch):
    monkeypatch.setattr(sources, "GITHUB", server.url)
    uniform = sources.read_folder(shared_data / "instruments", [])
    records = [
        {"reviewerID": f"U{u}", "asin": uniform.items["asin"][i], "overall": float(r),
         "unixReviewTime": int(t), "summary": ""}
        for u, i, t, r in zip(uniform.user, uniform.item, uniform.timestamp, uniform.rating)
    ]  # fmt: skip
    path = nowhere.parent / "made.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("Musical_Instruments_5.json", "\n".join(map(json.dumps, records)))
    address = sources.SOURCES["instruments"].address
    server.files[f"/{address}/Musical_Instruments.zip"] = path.read_bytes()
    data = load_dataset("instruments")
    assert data.sequences_sha256 == uniform.sequences_sha256
    assert data.items["asin"].tolist() == uniform.items["asin"].tolist()
    np.testing.assert_array_equal(data.timestamp, uniform.timestamp)


def test_what_cannot_be_had_says_which_file_from_where_to_where(server, nowhere, monkeypatch):
    monkeypatch.setattr(sources, "GITHUB", server.url)
    with pytest.raises(DownloadError) as caught:
        load_dataset("office")
    address = f"{server.url}/{sources.SOURCES['office'].address}"
    for part in ("Office_Products.txt", address, str(nowhere / "office")):
        assert part in str(caught.value)


def test_wrong_bytes_are_refused_by_the_pinned_checksum(server, nowhere, monkeypatch):
    monkeypatch.setattr(sources, "GITHUB", server.url)
    server.files[f"/{sources.SOURCES['beauty'].address}/Beauty.txt"] = b"1 1 2\n"
    with pytest.raises(ChecksumError, match="Beauty.txt gave 6 bytes"):
        load_dataset("beauty")


def test_lookup_order(shared_data, tmp_path, monkeypatch):
    """SEMID_DATA comes before everything; a folder without the dataset is passed over."""
    monkeypatch.setenv("SEMID_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    shutil.copytree(shared_data / "office", second / "office")
    monkeypatch.setenv("SEMID_DATA", f"{first}{':' if sys.platform != 'win32' else ';'}{second}")
    assert fetch("office") == second / "office"
    assert sources.search_path()[-1] == tmp_path / "cache"


def test_another_dataset_under_a_known_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "beauty").mkdir()
    (tmp_path / "beauty" / "interactions.csv").write_text("user,item,position\n0,0,0\n")
    (tmp_path / "beauty" / "items.csv").write_text(
        "item,brand,category_1,category_2,category_3\n0,a,b,c,d\n"
    )
    monkeypatch.setenv("SEMID_DATA", str(tmp_path))
    with pytest.raises(ChecksumError, match="does not hold 'beauty'.*goes under another name"):
        load_dataset("beauty")
    assert load_dataset(tmp_path / "beauty").num_users == 1, "as a folder it is your own data"


def test_unknown_name_lists_the_known_ones():
    for call in (load_dataset, fetch):
        with pytest.raises(DataError, match="'beuty'.*ml-100k, ml-1m, beauty.*baby"):
            call("beuty")


def test_the_list_is_complete():
    names = [info.name for info in list_datasets()]
    assert set(names) == {*SHARED, "ml-100k", "ml-1m"} and len(names) == 11
    for info in list_datasets():
        assert info.order and info.title
        assert info.part_of in names if info.part_of else info.address and info.files


def test_beauty_complete_is_the_largest_core_of_the_items_with_all_fields(shared_data, monkeypatch):
    """By pandas on the rows: keep whole items, then drop rare users and items until none is."""
    monkeypatch.setenv("SEMID_DATA", str(shared_data))
    whole, data = load_dataset("beauty"), load_dataset("beauty-complete")
    rows = pd.DataFrame({"user": whole.user, "item": whole.item})
    fields = pd.DataFrame(whole.fields)
    rows = rows[rows.item.isin(fields.index[(fields >= 0).all(axis=1)])]
    while True:
        often = [rows.groupby(c)[c].transform("size") >= 5 for c in ("user", "item")]
        if all(o.all() for o in often):
            break
        rows = rows[often[0] & often[1]]
    assert (data.user_ids[data.user] == rows.user).all()
    assert (data.item_ids[data.item] == rows.item).all()
    names, part = whole.items["item"].to_numpy(), data.items["item"].to_numpy()
    assert (part[data.item] == names[rows.item]).all()
    assert all((codes >= 0).all() for codes in data.fields.values())
    brand = [whole.field_values["brand"][c] for c in whole.fields["brand"][rows.item]]
    assert [data.field_values["brand"][c] for c in data.fields["brand"][data.item]] == brand
    assert fetch("beauty-complete") == fetch("beauty")
    fewer = load_dataset("beauty-complete", fields=["brand"])
    assert list(fewer.fields) == ["brand"] and fewer.sequences_sha256 == data.sequences_sha256


def test_ml100k_is_whole(ml100k):
    assert (ml100k.num_users, ml100k.num_items, ml100k.num_interactions) == (943, 1682, 100_000)
    assert list(ml100k.fields) == ["genre", "genre_2", "genres", "year"]
    titles = ml100k.items["title"].tolist()
    assert titles[49] == "Star Wars (1977)" and titles[11] == "The Usual Suspects (1995)"
    assert 8.7e8 < ml100k.timestamp.min() < ml100k.timestamp.max() < 9.0e8  # 1997 and 1998
    assert set(ml100k.rating) == {1, 2, 3, 4, 5}


def test_ml100k_from_a_grouplens_zip_is_the_same(ml100k, server, nowhere, monkeypatch):
    """GroupLens's own form, written from RecBole's, when pip cannot help."""
    from semid_lib.data import formats

    def no_pip(**_):
        raise DownloadError("No module named pip")

    flags = [
        "|".join(
            "1" if g in (kinds or "unknown").split("|") else "0" for g in formats.ML100K_GENRES
        )
        for kinds in ml100k.items["genres"].fillna("")
    ]
    titles = ml100k.items["title"]
    movies = [f"{i + 1}|{t}||||{f}" for i, (t, f) in enumerate(zip(titles, flags))]
    rows = zip(ml100k.user + 1, ml100k.item + 1, ml100k.rating.astype(int), ml100k.timestamp)
    path = nowhere.parent / "made.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ml-100k/u.data", "\n".join("\t".join(map(str, row)) for row in rows))
        file.writestr("ml-100k/u.item", "\n".join(movies).encode("latin-1"))
    monkeypatch.setattr(sources, "pip_download", no_pip)
    monkeypatch.setattr(sources, "GROUPLENS", server.url)
    with pytest.raises(DownloadError, match="No module named pip.*ml-100k.zip.*By hand"):
        load_dataset("ml-100k")
    (nowhere / "ml-100k").mkdir(parents=True, exist_ok=True)
    shutil.copy(path, nowhere / "ml-100k" / "ml-100k.zip")
    with pytest.raises(ChecksumError, match="other titles, fields"):  # release dates are missing
        load_dataset("ml-100k")
    made = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(sources.SOURCES["ml-100k"].files, "ml-100k.zip", made)
    data = load_dataset("ml-100k")
    assert data.sha256 == ml100k.sha256
    assert data.items["title"].tolist() == titles.tolist()


def test_edited_titles_are_refused_in_both_forms(ml100k, tmp_path, monkeypatch):
    """The sequences are as pinned; a title, a genre or a rating is not."""
    monkeypatch.setenv("SEMID_DATA", str(tmp_path))
    folder = write_folder(ml100k, tmp_path / "ml-100k")
    assert load_dataset("ml-100k").contents_sha256 == ml100k.contents_sha256
    whole = gzip.decompress((folder / "items.csv.gz").read_bytes())
    for old, new in ((b"Star Wars", b"Star Wart"), (b"Western", b"Eastern")):
        assert old in whole
        (folder / "items.csv.gz").write_bytes(gzip.compress(whole.replace(old, new)))
        with pytest.raises(ChecksumError, match="other titles, fields"):
            load_dataset("ml-100k")
        with pytest.raises(ChecksumError, match="other titles, fields"):
            load_dataset("ml-100k", fields=["genre"])
    shutil.rmtree(folder)
    source = sources.cache_dir() / "ml-100k"
    if not (source / "ml-100k.item").exists():
        return
    folder.mkdir()
    shutil.copy(source / "ml-100k.inter", folder)
    text = (source / "ml-100k.item").read_bytes()
    (folder / "ml-100k.item").write_bytes(text.replace(b"Star Wars", b"Star Wart"))
    with pytest.raises(ChecksumError, match="other titles, fields"):
        load_dataset("ml-100k")


def test_a_folder_called_like_a_known_dataset_has_another_name(tmp_path, monkeypatch):
    own = tmp_path / "beauty"
    own.mkdir()
    (own / "interactions.csv").write_text("user,item,position\n0,0,0\n0,1,1\n")
    assert load_dataset(own).name == sources.called(own) == "my-beauty"
    monkeypatch.chdir(own)
    assert load_dataset(".").name == sources.called(".") == "my-beauty"
    monkeypatch.chdir(tmp_path)
    assert load_dataset("./beauty").name == sources.called("./beauty") == "my-beauty"
    assert sources.called("beauty") == "beauty" and sources.called("電影") == "電影"
