"""SemanticIds and its trie, against dictionaries of prefixes and hand-worked cases."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semid_lib.codes import MAX_TOKENS, SemanticIds, Trie
from semid_lib.errors import CapacityError, CodesError, InputError, SemidError

COLLIDING = [[0, 1], [2, 0], [0, 1], [0, 0], [2, 0], [0, 1]]

code_rows = st.integers(1, 4).flatmap(
    lambda levels: st.lists(
        st.lists(st.integers(0, 5), min_size=levels, max_size=levels), min_size=1, max_size=40
    )
)


def prefix_dict(rows):
    """prefix -> its sorted next codes; full tuple -> its items. The truth for the trie."""
    children, items = defaultdict(set), defaultdict(list)
    for item, row in enumerate(rows):
        for length in range(len(row)):
            children[tuple(row[:length])].add(row[length])
        items[tuple(row)].append(item)
    return {p: sorted(c) for p, c in children.items()}, items


def walk(trie, prefix=(), level=0, nodes=None):
    """All (prefix, next codes) and (ID, items) pairs that the flat arrays describe."""
    nodes = range(len(trie.code[0])) if nodes is None else nodes
    yield "inner", prefix, [int(trie.code[level][n]) for n in nodes]
    for node in nodes:
        path = (*prefix, int(trie.code[level][node]))
        first = int(trie.first_child[level][node])
        below = range(first, first + int(trie.num_children[level][node]))
        if level + 1 < trie.num_levels:
            assert all(int(trie.parent[level + 1][n]) == node for n in below)
            yield from walk(trie, path, level + 1, below)
        else:
            ptr = trie.leaf_ptr
            assert (below.start, below.stop) == (int(ptr[node]), int(ptr[node + 1]))
            yield "leaf", path, [int(trie.leaf_items[n]) for n in below]


class TestTrie:
    @given(code_rows)
    @settings(max_examples=150, deadline=None)
    def test_equals_dict_of_prefixes(self, rows):
        children, items = prefix_dict(rows)
        trie = Trie.of(np.array(rows, dtype=np.int64))
        seen = list(walk(trie))
        assert {p: c for kind, p, c in seen if kind == "inner"} == children
        assert {p: i for kind, p, i in seen if kind == "leaf"} == dict(items)
        assert [p for kind, p, _ in seen if kind == "leaf"] == sorted(items)
        assert trie.num_leaves == len(items)
        levels = len(rows[0])
        widest = [max(len(c) for p, c in children.items() if len(p) == n) for n in range(1, levels)]
        assert list(trie.max_children) == [*widest, max(map(len, items.values()))]

    def test_tensors_are_the_same_trie(self):
        trie = SemanticIds(COLLIDING).trie
        moved = trie.tensors("cpu")
        assert moved is trie.tensors("cpu")
        assert list(walk(moved)) == list(walk(trie))
        assert str(moved.code[0].dtype) == "torch.int64"


class TestSemanticIds:
    def test_tokens_of_a_worked_example(self):
        sids = SemanticIds([[2, 0, 1], [0, 4, 0]], level_sizes=(3, 5, 2))
        assert sids.offsets.tolist() == [0, 3, 8]
        assert sids.num_tokens == 11  # padding + 3 + 5 + 2
        assert sids.tokens.tolist() == [[3, 4, 10], [1, 8, 9]]
        assert (sids.num_items, sids.num_levels, len(sids)) == (2, 3, 2)

    @given(code_rows)
    @settings(max_examples=100, deadline=None)
    def test_tokens_tell_levels_apart(self, rows):
        sids = SemanticIds(rows)
        tokens = sids.tokens
        assert tokens.min() >= 1 and tokens.max() == sids.num_tokens - 1
        pairs = {
            (int(t), (lv, c)) for tr, r in zip(tokens, rows) for lv, (t, c) in enumerate(zip(tr, r))
        }
        assert len({t for t, _ in pairs}) == len({p for _, p in pairs}) == len(pairs)

    @given(code_rows)
    @settings(max_examples=100, deadline=None)
    def test_leaves_equal_scan(self, rows):
        sids = SemanticIds(rows)
        for item, row in enumerate(rows):
            same = [i for i, r in enumerate(rows) if r == row]
            assert np.flatnonzero(sids.leaf_of == sids.leaf_of[item]).tolist() == same

    def test_collisions_of_a_worked_example(self):
        sids = SemanticIds(COLLIDING)
        assert not sids.is_unique and sids.num_ids == 3
        assert np.flatnonzero(sids.leaf_of == sids.leaf_of[0]).tolist() == [0, 2, 5]
        assert repr(sids) == "SemanticIds(6 items, levels 3 x 2, 3 distinct IDs)"

    def test_does_not_alias_its_input(self):
        codes = np.array([[0], [1]])
        sids = SemanticIds(codes)
        codes[0] = 1
        assert sids.is_unique and sids == SemanticIds([[0], [1]])

    def test_equality(self):
        assert SemanticIds([[0], [1]]) != SemanticIds([[0], [1]], (3,))
        assert SemanticIds([[0], [1]]) != SemanticIds([[1], [0]])
        assert SemanticIds([[0]]) != "other"

    @pytest.mark.parametrize(
        ("codes", "sizes", "message"),
        [
            ([[0, 1], [0, -2]], None, r"item 1 has code -2 at level 1, outside 0\.\.1"),
            ([[0, 1], [3, 0]], (3, 2), r"item 1 has code 3 at level 0, outside 0\.\.2"),
            ([[0.0, 1.5]], None, r"must be integers, not float64"),
            ([[True, False]], None, r"must be integers, not bool"),
            ([["a"]], None, r"must be integers"),
            ([[0, 1], [2]], None, r"ragged"),
            ([0, 1, 2], None, r"must be \[N, L\].*\(3,\)"),
            ([], None, r"at least one item"),
            ([[]], None, r"at least one item and level, not \(1, 0\)"),
            ([[[0]]], None, r"must be \[N, L\]"),
            ([[0, 1]], (3,), r"level_sizes are \[3\], not 2 numbers"),
            ([[0]], (0,), r"level_sizes are \[0\], not 1 numbers above 0"),
            ([[0]], (1.0,), r"level_sizes must be integers, not float64"),
            ([[0]], (True,), r"level_sizes must be integers, not bool"),
            ([[0]], 7, r"level_sizes must be \[L\]"),
            ([[2**70]], None, r"integers"),
            (None, None, r"must be \[N, L\]"),
        ],
    )
    def test_malformed_codes(self, codes, sizes, message):
        with pytest.raises(CodesError, match=message):
            SemanticIds(codes, sizes)

    def test_all_codes_negative(self):
        with pytest.raises(CodesError, match="item 0 has code -1"):
            SemanticIds([[-1], [-1]])

    def test_vocabulary_limit(self):
        with pytest.raises(CapacityError, match=str(MAX_TOKENS)):
            SemanticIds([[2**40]])
        with pytest.raises(CapacityError, match="largest vocabulary"):
            SemanticIds([[0, 0]], (2**31 - 2, 1))


class TestResolve:
    def test_extra_digit_of_a_worked_example(self):
        sids = SemanticIds(COLLIDING).resolve("extra_digit")
        assert sids.codes[:, 2].tolist() == [0, 0, 1, 0, 1, 2]
        assert sids.level_sizes == (3, 2, 3)
        assert sids.is_unique

    def test_grid_digit_of_a_worked_example(self):
        sids = SemanticIds(COLLIDING).resolve("grid_digit")
        assert sids.codes[:, 2].tolist() == [1, 1, 2, 0, 2, 3]
        assert sids.level_sizes == (3, 2, 4)
        assert sids.is_unique

    @given(code_rows, st.sampled_from(["extra_digit", "grid_digit"]))
    @settings(max_examples=100, deadline=None)
    def test_digits_separate_and_keep_the_rest(self, rows, how):
        before = SemanticIds(rows, (9,) * len(rows[0]))
        after = before.resolve(how)
        assert len({tuple(r) for r in after.codes.tolist()}) == len(rows)
        assert after.codes[:, :-1].tolist() == rows
        assert after.level_sizes[:-1] == before.level_sizes
        most = Counter(map(tuple, rows)).most_common(1)[0][1]
        assert after.level_sizes[-1] == (most if how == "extra_digit" or most == 1 else most + 1)

    def test_none_is_the_same(self):
        sids = SemanticIds(COLLIDING)
        assert sids.resolve("none") is sids

    def test_sinkhorn_of_a_worked_example(self):
        # Two items share (0, 0); item 1 is nearer to the free code 2 than item 0 is, so it moves.
        costs = np.array([[0.0, 9.0, 5.0], [0.1, 9.0, 0.4], [9.0, 0.0, 9.0]])
        sids = SemanticIds([[0, 0], [0, 0], [0, 1]], (1, 3)).resolve("sinkhorn", costs=costs)
        assert sids.codes.tolist() == [[0, 0], [0, 2], [0, 1]]

    def test_sinkhorn_touches_colliding_items_only(self):
        rng = np.random.default_rng(0)
        before = SemanticIds(rng.integers(0, 8, (200, 3)), (8, 8, 8))
        after = before.resolve("sinkhorn", costs=rng.random((200, 8)), rounds=1)
        alone = np.bincount(before.leaf_of)[before.leaf_of] == 1
        assert (after.codes[:, :2] == before.codes[:, :2]).all()
        assert (after.codes[alone] == before.codes[alone]).all()
        assert after.num_ids > before.num_ids

    def test_sinkhorn_separates_a_group_when_codes_suffice(self):
        # Nine items on one ID of a level with nine codes; a planted permutation is the cheapest.
        rng = np.random.default_rng(1)
        wanted = rng.permutation(9)
        costs = 1 + 0.1 * rng.random((9, 9))
        costs[np.arange(9), wanted] = 0
        after = SemanticIds(np.zeros((9, 2), int), (1, 9)).resolve("sinkhorn", costs=costs)
        assert after.codes[:, 1].tolist() == wanted.tolist()

    def test_sinkhorn_leaves_what_cannot_be_separated(self):
        # Equal vectors have equal costs, so no rule on distances can tell them apart.
        sids = SemanticIds([[0, 0], [0, 0]], (1, 2)).resolve("sinkhorn", costs=np.ones((2, 2)))
        assert sids.num_ids == 1
        assert sids.level_sizes == (1, 2)

    @pytest.mark.parametrize(
        ("how", "costs", "error", "message"),
        [
            ("sort", None, InputError, "unknown collision rule 'sort'"),
            ("sinkhorn", None, InputError, "needs costs"),
            ("sinkhorn", np.ones((6, 3)), CodesError, r"\(6, 3\), not \(6, 2\)"),
            ("sinkhorn", np.full((6, 2), np.nan), InputError, "NaN"),
        ],
    )
    def test_errors(self, how, costs, error, message):
        with pytest.raises(error, match=message):
            SemanticIds(COLLIDING).resolve(how, costs=costs)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
near_tokens = st.sampled_from(
    [
        "<a_0>",
        "<a_12>",
        "<b_7>",
        "<b_0>",
        "<a_-1>",
        "<A_1>",
        "a_1",
        "<a_01>",
        "<a_99999999999>",
        "<c_1>",
    ]
)
near_index = st.dictionaries(
    st.sampled_from(["0", "1", "2", "3", "00", "-1", "x", "1.0", ""]) | st.integers(-1, 4),
    st.lists(near_tokens | st.integers() | st.none(), max_size=3) | json_values,
    max_size=4,
)
near_file = st.fixed_dictionaries(
    {},
    optional={
        "format": st.just("semid_lib.SemanticIds") | json_values,
        "version": st.just(1) | json_values,
        "level_sizes": st.lists(st.integers(-1, 2**40), max_size=3) | json_values,
        "codes": st.lists(st.lists(st.integers(-1, 2**70) | st.booleans(), max_size=3))
        | json_values,
    },
)


def read(reader, source):
    """Either SemanticIds or an error of ours; anything else fails the test."""
    try:
        assert isinstance(reader(source), SemanticIds)
    except SemidError as error:
        assert len(str(error)) > 10


class TestFiles:
    @given(code_rows)
    @settings(max_examples=60, deadline=None)
    def test_index_round_trip(self, rows):
        sids = SemanticIds(rows, (7,) * len(rows[0]))
        index = json.loads(json.dumps(sids.to_index_json()))
        assert SemanticIds.from_index_json(index, sids.level_sizes) == sids
        backwards = dict(reversed(index.items()))
        assert SemanticIds.from_index_json(backwards) == SemanticIds(rows)

    @given(code_rows)
    @settings(
        max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_file_round_trips(self, tmp_path, rows):
        sids = SemanticIds(rows, (7,) * len(rows[0]))
        assert SemanticIds.from_json(sids.to_json(tmp_path / "codes.json")) == sids
        sids.to_index_json(tmp_path / "index.json")
        assert SemanticIds.from_index_json(tmp_path / "index.json", sids.level_sizes) == sids

    def test_index_of_a_worked_example(self, tmp_path):
        index = SemanticIds([[12, 7], [0, 3]]).to_index_json(tmp_path / "index.json")
        assert index == {"0": ["<a_12>", "<b_7>"], "1": ["<a_0>", "<b_3>"]}
        assert json.loads((tmp_path / "index.json").read_text()) == index

    def test_letters_beyond_z(self):
        sids = SemanticIds(np.arange(60)[None])
        tokens = sids.to_index_json()["0"]
        assert (tokens[25], tokens[26], tokens[51], tokens[52]) == (
            "<z_25>",
            "<aa_26>",
            "<az_51>",
            "<ba_52>",
        )
        assert SemanticIds.from_index_json({"0": tokens}) == sids

    def test_integer_keys_of_a_dict(self):
        assert SemanticIds.from_index_json({1: ["<a_1>"], 0: ["<a_0>"]}) == SemanticIds([[0], [1]])

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            ({}, "not empty"),
            ([], "must be an object"),
            (
                {"1": ["<a_0>"], "2": ["<a_1>"]},
                r"the 2 item keys must be the numbers 0\.\.1, each once, not \['2'\]",
            ),
            ({"B00ABC": ["<a_0>"]}, "not .'B00ABC'.: map"),
            ({"00": ["<a_0>"]}, "not .'00'.: map"),
            ({True: ["<a_0>"]}, "not .'True'.: map"),
            ({"0": ["<a_0>"], 0: ["<a_0>"]}, "each once, not"),
            ({"0": "<a_0>"}, "item 0 has '<a_0>' instead of a list"),
            ({"0": ["<a_x>"]}, "item 0, level 0: '<a_x>' is not of the form"),
            ({"0": ["<a_-1>"]}, "is not of the form"),
            ({"0": ["<a_007>"]}, "is not of the form"),
            ({"0": ["<a_\u0663>"]}, "is not of the form"),
            ({"0": [3]}, "item 0, level 0: '3' is not of the form"),
            (
                {"0": ["<b_1>", "<a_0>"]},
                "item 0, level 0: '<b_1>' is not of the form '<a_12>'; are",
            ),
            ({"0": ["<a_1>", "<c_0>"]}, "level 1: '<c_0>' is not of the form '<b_12>'"),
            ({"0": ["<a_0>", "<b_0>"], "1": ["<a_0>"]}, "ragged"),
            ({"0": []}, "at least one item and level"),
            ({"0": ["<a_99999999999>"]}, "99999999999: the largest vocabulary"),
            ({"0": ["<a_" + "9" * 5000 + ">"]}, "is not of the form"),
        ],
    )
    def test_malformed_index(self, index, message):
        with pytest.raises(CodesError, match=message):
            SemanticIds.from_index_json(index)

    def test_level_sizes_too_small_for_the_index(self):
        with pytest.raises(CodesError, match=r"item 0 has code 5 at level 0, outside 0\.\.3"):
            SemanticIds.from_index_json({"0": ["<a_5>"]}, (4,))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"0": ["<a_0>"]', "15 bytes.*cut short"),
            ("", "cut short"),
            ('{"0": ["<a_0>"], "0": ["<a_1>"]}', "'0' occurs twice"),
            ("[" * 100_000, "cut short|whole JSON"),
            (b"\xff\xfe\x00", "whole JSON"),
            ("[" + "9" * 5000 + "]", "whole JSON|must be an object"),
        ],
    )
    def test_malformed_file(self, tmp_path, text, message):
        path = tmp_path / "index.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(CodesError, match=message):
            SemanticIds.from_index_json(path)
        with pytest.raises(CodesError):
            SemanticIds.from_json(path)

    def test_missing_file(self, tmp_path):
        with pytest.raises(CodesError, match="no such file: none.json"):
            SemanticIds.from_json(tmp_path / "none.json")

    def test_every_cut_of_a_file_is_refused(self, tmp_path):
        whole = SemanticIds(COLLIDING).to_json(tmp_path / "whole.json").read_bytes()
        path = tmp_path / "cut.json"
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(CodesError):
                SemanticIds.from_json(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "other"}, "not a file of SemanticIds.to_json"),
            ({"version": 2}, "to_json, version 1"),
            ({"codes": None}, r"codes must be \[N, L\]"),
            ({"codes": [[0, 1.0]]}, "must be integers, not float64"),
            ({"codes": [[0, 1], [1]]}, "ragged"),
            ({"level_sizes": None}, "not a file of SemanticIds.to_json"),
            ({"level_sizes": [1, 1]}, "outside 0..0"),
            ({"level_sizes": "ab"}, r"level_sizes must be \[L\]"),
            ({"level_sizes": ["a", 2]}, "level_sizes must be integers"),
        ],
    )
    def test_malformed_own_file(self, tmp_path, change, message):
        path = SemanticIds(COLLIDING).to_json(tmp_path / "codes.json")
        value = json.loads(path.read_text())
        del value["sha256"]  # as in a file made by hand
        path.write_text(json.dumps({**value, **change}))
        with pytest.raises(CodesError, match=message):
            SemanticIds.from_json(path)

    def test_own_file_without_codes(self, tmp_path):
        path = tmp_path / "codes.json"
        path.write_text('{"format": "semid_lib.SemanticIds", "version": 1}')
        with pytest.raises(CodesError, match="not a file of SemanticIds.to_json"):
            SemanticIds.from_json(path)

    @given(json_values | near_index)
    @settings(max_examples=300, deadline=None)
    def test_any_index_is_read_or_refused(self, value):
        if isinstance(value, dict):
            read(SemanticIds.from_index_json, value)

    @given(json_values | near_index | near_file)
    @settings(
        max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_file_is_read_or_refused(self, tmp_path, value):
        path = tmp_path / "any.json"
        path.write_text(json.dumps(value))
        read(SemanticIds.from_index_json, path)
        read(SemanticIds.from_json, path)

    @given(st.binary(max_size=60))
    @settings(
        max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_bytes_are_read_or_refused(self, tmp_path, payload):
        path = tmp_path / "any.json"
        path.write_bytes(payload)
        read(SemanticIds.from_index_json, path)
        read(SemanticIds.from_json, path)
