"""Files that are either whole or absent: atomic writes, and tensors without pickle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semid_lib.distributed import place
from semid_lib.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_META = "semid"


def write_atomic(path: str | Path, payload: bytes) -> Path:
    """Write `payload` so that a reader sees the old file or the new one, never a part.

    A temporary file in the same folder is flushed to disk and renamed over `path`, so a
    process killed at any moment leaves the old content. Cost: one extra copy on disk. Of several
    processes of one run (`semid_lib.distributed`) the first one writes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if place()[0] > 0:
        return path
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
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as sorted, indented JSON (NaN is refused), atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return write_atomic(path, (text + "\n").encode())


def save_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], meta: dict) -> Path:
    """Write tensors and a JSON-able `meta` into one safetensors file, atomically."""
    from safetensors.torch import save

    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return write_atomic(path, save(whole, {_META: json.dumps(meta, sort_keys=True)}))


def load_tensors(path: str | Path, kind: str | None = None) -> tuple[dict, dict]:
    """Read what `save_tensors` wrote: `(tensors on the CPU, meta)`.

    `kind`, if given, must equal `meta["kind"]`.

    Raises:
        CheckpointError: the file is missing, cut short, not ours, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no such file: {path.name}")
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})[_META])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(
            f"{path.name} ({path.stat().st_size} bytes) is not a readable semid_lib file: "
            f"{error}. It was probably cut short while copying, or written by something else."
        ) from error
    if kind is not None and meta.get("kind") != kind:
        raise CheckpointError(
            f"{path.name} holds a {meta.get('kind')!r}, not a {kind!r}: "
            "it is the file of another model."
        )
    return tensors, meta
