"""Files that later stages trust: a flipped bit or an edited number is an error, never a result."""

import json

import pytest
import torch
from safetensors.torch import save

from semid_lib.codes import SemanticIds
from semid_lib.errors import CheckpointError, CodesError, RecordError
from semid_lib.storage import (
    load_tensors,
    read_json,
    read_sealed,
    save_tensors,
    sealed,
    unsealed,
    write_json,
)

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "step": torch.tensor(7),
    "empty": torch.zeros(0, 2),
}


def test_every_flipped_bit_of_the_tensors_and_of_meta_is_refused(tmp_path):
    path = save_tensors(tmp_path / "file", TENSORS, {"kind": "model", "epochs": 3})
    whole = path.read_bytes()
    read, meta = load_tensors(path, "model")
    assert meta == {"kind": "model", "epochs": 3}
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    start = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(start, len(whole)), whole.index(b"epochs") + 10, whole.index(b'"sha256"') + 2]
    for place in places:
        for bit in (1, 4):
            broken = bytearray(whole)
            broken[place] ^= bit
            path.write_bytes(broken)
            with pytest.raises(CheckpointError, match="file"):
                load_tensors(path)


def test_a_file_from_before_there_were_digests_is_read(tmp_path):
    path = tmp_path / "old"
    path.write_bytes(save(TENSORS, {"semid": json.dumps({"kind": "model"})}))
    assert load_tensors(path, "model")[0]["step"] == 7


@pytest.mark.parametrize("meta", ["[]", "null", "3", "{", "[" * 100_000])
def test_metadata_that_are_no_object_are_refused(meta, tmp_path):
    path = tmp_path / "strange"
    path.write_bytes(save({"x": torch.ones(1)}, {"semid": meta}))
    with pytest.raises(CheckpointError, match="strange"):
        load_tensors(path)


def test_sealed_objects_are_what_was_written_whatever_the_order_of_keys(tmp_path):
    value = {"b": (1, 2.5), "a": {"10": None, "9": "é"}, "n": 1e-300}
    path = write_json(tmp_path / "stage.json", sealed(value))
    found = read_sealed(path)
    assert found == json.loads(json.dumps(value))
    again = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(again.items()))))
    assert read_sealed(path) == found
    again["b"][1] = 2.6
    path.write_text(json.dumps(again))
    with pytest.raises(RecordError, match="stage.json does not hold what was written"):
        read_sealed(path)


def test_an_object_without_a_digest_is_old(tmp_path):
    assert unsealed({"a": 1}, "x") == {"a": 1}
    assert read_sealed(write_json(tmp_path / "old.json", {"a": 1})) is None
    assert read_sealed(write_json(tmp_path / "list.json", [1])) is None
    assert read_sealed(tmp_path / "none.json") is None


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_json_that_cannot_be_read_names_its_file(content, tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="bad.json is not whole JSON"):
        read_json(path)


def test_edited_codes_are_refused_and_old_ones_read(tmp_path):
    sids = SemanticIds([[0, 1], [1, 0], [1, 1]])
    path = sids.to_json(tmp_path / "codes.json")
    assert SemanticIds.from_json(path) == sids
    value = json.loads(path.read_text())
    value["codes"][0] = [0, 0]
    path.write_text(json.dumps(value))
    with pytest.raises(CodesError, match="codes.json does not hold what was written"):
        SemanticIds.from_json(path)
    del value["sha256"]
    path.write_text(json.dumps(value))
    assert SemanticIds.from_json(path).codes.tolist()[0] == [0, 0]
