"""Files that are either whole or absent: atomic writes, digests, and tensors without pickle.

What a later stage trusts holds a SHA-256 of its content, so that a flipped bit or an edited number
is an error and not another result. Files from before there were digests are read without one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semid_lib.compute.distributed import rank
from semid_lib.errors import CheckpointError, RecordError, SemidError, StorageError
from semid_lib.settings import of_python

if TYPE_CHECKING:
    import torch

_META, _SHA256 = "semid", "sha256"


def write_atomic(path: str | Path, payload: bytes) -> Path:
    """Write `payload` so that a reader sees the old file or the new one, never a part.

    A temporary file in the same folder is flushed to disk and renamed over `path`, so a
    process killed at any moment leaves the old content. Cost: one extra copy on disk. Of several
    processes of one run (`semid_lib.compute.distributed`) the first one writes.

    Raises:
        StorageError: the disk is full, the folder read-only, or something else in the way.
    """
    path = Path(path)
    with writing(path):
        _replace(path, payload)
    return path


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the system says while `path` is written into a StorageError that names it."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        place = Path(path).absolute()
        names = ("SEMID_RUNS", "SEMID_RESULTS", "SEMID_CACHE", "SEMID_DATA")
        set_ = [n for n in names if os.environ.get(n) and Path(os.environ[n]).absolute() in
                (place, *place.parents)]  # fmt: skip
        where = f"${set_[0]} puts it there" if set_ else "$SEMID_RUNS and $SEMID_RESULTS move runs"
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}): a full disk, a folder that is "
            f"read-only, or a file in its place? {where}"
        ) from error


def _replace(path: Path, payload: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if rank() > 0:
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as sorted, indented JSON (NaN is refused), atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return write_atomic(path, (text + "\n").encode())


def _content(value: Mapping) -> tuple[dict, str]:
    """`value` without its digest, as JSON gives it back, and the digest that it should have."""
    rest = json.loads(json.dumps({k: v for k, v in value.items() if k != _SHA256}))
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return rest, hashlib.sha256(text.encode()).hexdigest()


def sealed(value: Mapping) -> dict:
    """Return a JSON object with the digest of its content beside it, for `unsealed`."""
    rest, digest = _content(value)
    return {**rest, _SHA256: digest}


def unsealed(value: Mapping, name: str, error: type[SemidError] = RecordError) -> dict:
    """Return what `sealed` was given; an object without a digest as it is.

    Raises:
        RecordError, or `error`: the content is not that of the digest.
    """
    if _SHA256 not in value:
        return dict(value)
    rest, digest = _content(value)
    if value[_SHA256] != digest:
        raise error(
            f"{name} does not hold what was written (its sha256 is {digest[:12]}..., not "
            f"{str(value[_SHA256])[:12]}...): edited, or damaged on the disk. Delete it, and what "
            "made it makes it again."
        )
    return rest


def read_sealed(path: str | Path) -> dict | None:
    """Read a JSON object written as `write_json(path, sealed(value))`.

    None if there is no such file, or if it holds no digest, as those from before there were any:
    then it is to be made again.

    Raises:
        RecordError: not JSON, or not what was written.
    """
    path = Path(path)
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict) or _SHA256 not in value:
        return None
    return unsealed(value, str(path))


def read_json(path: Path):
    """Read a JSON file. Raises RecordError, naming it, if it cannot be read as one."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise RecordError(
            f"{path} is not whole JSON ({type(error).__name__}: {error}): cut short, or edited? "
            "Delete it, and what made it makes it again."
        ) from error


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], meta: dict) -> Path:
    """Write tensors and a JSON-able `meta` into one safetensors file, with a digest of both."""
    from safetensors.torch import save

    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    text = json.dumps(of_python(meta), sort_keys=True)
    return write_atomic(path, save(whole, {_META: text, _SHA256: _digest(whole, text)}))


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    import torch

    digest = hashlib.sha256(text.encode())
    for name, t in sorted(tensors.items()):
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_tensors(path: str | Path, kind: str | None = None) -> tuple[dict, dict]:
    """Read what `save_tensors` wrote: `(tensors on the CPU, meta)`.

    `kind`, if given, must equal `meta["kind"]`.

    Raises:
        CheckpointError: the file is missing, cut short, damaged, not ours, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no such file: {path.name}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            meta = json.loads(about[_META])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if not isinstance(meta, dict):
            raise ValueError(f"its metadata is a {type(meta).__name__}")
    except (SafetensorError, KeyError, ValueError, RecursionError, OSError) as error:
        raise CheckpointError(
            f"{path.name} ({path.stat().st_size} bytes) is not a readable semid_lib file: "
            f"{error}. It was probably cut short while copying, or written by something else."
        ) from error
    # files from before there were digests hold nothing but the metadata
    if len(about) > 1 and about.get(_SHA256) != _digest(tensors, about[_META]):
        raise CheckpointError(
            f"{path} does not hold what was written, by its sha256: edited, or damaged on the "
            "disk. Delete it, and what made it makes it again."
        )
    if kind is not None and meta.get("kind") != kind:
        raise CheckpointError(
            f"{path.name} holds a {meta.get('kind')!r}, not a {kind!r}: "
            "it is the file of another model."
        )
    return tensors, meta


_FOREIGN = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)


@contextmanager
def restoring(path: str | Path, kind: str) -> Iterator[None]:
    """Turn what goes wrong while a model is made of a file's content into a CheckpointError."""
    try:
        yield
    except SemidError:
        raise
    except _FOREIGN as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise CheckpointError(
            f"{Path(path).name} does not hold what a {kind} is made of ({type(error).__name__}: "
            f"{what:.200}): it was edited, or written by another version."
        ) from error
