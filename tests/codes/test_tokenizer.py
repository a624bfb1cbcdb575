"""SemanticIds as an ItemTokenizer: what recommenders see of it, against look-ups by hand."""

import json

import numpy as np
import pytest
import torch

from semid_lib.codes import SemanticIds, check_catalogue, item_codes
from semid_lib.data import Interactions
from semid_lib.errors import CodesError

IDS = [[0, 1], [2, 0], [0, 1], [0, 0], [2, 0], [0, 1]]  # tokens: 1..3 and 4..5


def interactions(**more):
    """Two users, three items."""
    return Interactions(np.array([0, 0, 1]), np.array([0, 1, 2]), 2, 3, **more)


def test_histories_become_tokens_and_shorter_ones_end_in_padding():
    sids = SemanticIds(IDS)
    wanted = [[3, 4, 1, 4, 1, 5], [1, 5, 0, 0, 0, 0]]
    histories = np.array([[1, 3, 0], [2, -1, -1]])
    assert sids.encode(histories).tolist() == wanted
    found = sids.encode(torch.from_numpy(histories))
    assert isinstance(found, torch.Tensor) and found.tolist() == wanted
    assert sids.encode(histories[:0]).shape == (0, 6)
    assert sids.tokens_per_item == 2


def test_targets_are_the_tokens_of_an_item():
    sids = SemanticIds(IDS)
    assert sids.targets(np.array([4, 3])).tolist() == [[3, 4], [1, 4]]
    assert sids.targets(torch.tensor([[4], [3]])).tolist() == [[[3, 4]], [[1, 4]]]
    assert item_codes(sids).tolist() == IDS


def test_allowed_codes_are_those_of_some_item():
    rng = np.random.default_rng(0)
    sids = SemanticIds(rng.integers(0, 4, (30, 3)), (4, 4, 4))
    rows = sids.codes.tolist()
    for length in range(3):
        for prefix in np.ndindex(*(4,) * length):
            wanted = {row[length] for row in rows if tuple(row[:length]) == prefix}
            assert sids.allowed(prefix).tolist() == sorted(wanted)
    assert sids.allowed((9,)).tolist() == []


def test_leaves_become_their_items_and_ties_do_not_stand_in_index_order():
    sids = SemanticIds(IDS)  # leaves: (0, 0), (0, 1), (2, 0)
    found = sids.items(np.array([[2, 0], [1, 1]]))
    assert found.shape == (2, 2, 3)
    assert sorted(found[0, 0].tolist()) == [-1, 1, 4] and found[0, 0, 2] == -1
    assert found[0, 1].tolist() == [3, -1, -1]
    assert sorted(found[1, 0].tolist()) == [0, 2, 5]
    same = sids.items(torch.tensor([[2, 0], [1, 1]]))
    assert isinstance(same, torch.Tensor) and same.tolist() == found.tolist()
    many = SemanticIds(np.zeros((50, 1), dtype=int)).items(np.array([0]))[0].tolist()
    assert sorted(many) == list(range(50)) and many != sorted(many)


def test_another_version_means_other_codes():
    version = SemanticIds(IDS).version
    assert version == SemanticIds(np.array(IDS)).version
    moved = [[0, 0], *IDS[1:]]
    assert len({version, SemanticIds(moved).version, SemanticIds(IDS[::-1]).version}) == 3
    assert version != SemanticIds(IDS, (4, 2)).version


def test_the_catalogue_is_kept_in_files_and_through_collisions(tmp_path):
    sids = SemanticIds(IDS, catalogue="abc")
    assert SemanticIds.from_json(sids.to_json(tmp_path / "codes.json")).catalogue == "abc"
    assert sids.resolve("extra_digit").catalogue == "abc"
    costs = np.random.default_rng(0).random((6, 2))
    assert sids.resolve("sinkhorn", costs=costs).catalogue == "abc"
    assert sids == SemanticIds(IDS)  # the codes are compared
    path = SemanticIds(IDS).to_json(tmp_path / "unknown.json")
    assert "catalogue" not in json.loads(path.read_text())  # as in files from before there was one
    assert SemanticIds.from_json(path).catalogue is None
    with pytest.raises(CodesError, match="catalogue is 7"):
        SemanticIds(IDS, catalogue=7)


def test_the_hash_of_a_catalogue_depends_on_its_items_alone():
    genre = {"genre": np.array([0, 1, 0])}
    base = interactions(fields=genre, item_ids=np.array(["a", "b", "c"]))
    more = Interactions(
        np.array([0, 1, 1, 1]), np.array([2, 2, 1, 0]), 2, 3, fields=genre, name="later",
        item_ids=np.array(["a", "b", "c"], dtype=object), timestamp=np.arange(4),
    )  # fmt: skip
    assert base.catalogue_sha256 == more.catalogue_sha256
    others = [
        interactions(fields=genre),
        interactions(fields=genre, item_ids=np.array(["a", "c", "b"])),
        interactions(fields={"kind": genre["genre"]}, item_ids=np.array(["a", "b", "c"])),
        interactions(fields={"genre": np.array([1, 0, 0])}, item_ids=np.array(["a", "b", "c"])),
        interactions(item_ids=np.array(["a", "b", "c"])),
        interactions(item_ids=np.array([1, 2, 3])),
        interactions(item_ids=np.array(["1", "2", "3"])),
        interactions(),
        Interactions(np.array([0, 0, 1]), np.array([0, 1, 2]), 2, 4),
    ]
    assert len({base.catalogue_sha256, *(data.catalogue_sha256 for data in others)}) == 10


def test_codes_of_another_catalogue_are_refused_by_name():
    books = interactions(item_ids=np.array(["a", "b", "c"]), name="books")
    films = interactions(item_ids=np.array(["x", "y", "z"]), name="films")
    sids = SemanticIds([[0], [1], [2]], catalogue=books.catalogue_sha256)
    check_catalogue(sids, books)
    with pytest.raises(CodesError) as found:
        check_catalogue(sids, films)
    message = str(found.value)
    assert books.catalogue_sha256[:12] in message and films.catalogue_sha256[:12] in message
    assert "'films'" in message
    check_catalogue(SemanticIds([[0], [1], [2]]), films)  # of unknown origin
    with pytest.raises(CodesError, match="codes of 2 items for a catalogue of 3"):
        check_catalogue(SemanticIds([[0], [1]]), films)
