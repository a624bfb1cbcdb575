"""The frame around the library: pins, copies, sizes, commands."""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import copies
import environment
import versions

ROOT = Path(__file__).resolve().parents[1]

# Lines a file may have: the papers' methods are readable in one sitting.
SITTING = {"famae.py", "gaoq.py", "r3vae.py", "acerec.py", "t5.py"}
FILE_LINES, FUNCTION_LINES = 300, 60


def test_environment_and_requirements_hold_the_same_pins():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [entry for entry in conda if isinstance(entry, str)] == ["python=3.11", "pip"]
    pip = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    assert pip == [(ROOT / "requirements.txt").read_text().split()]


def test_every_declared_dependency_is_pinned_inside_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert all("==" in entry for entry in extras.pop("bench")[1:])  # pinned there
    declared = project["dependencies"] + sum(extras.values(), [])
    pins = [Requirement(line) for line in copies.pins()]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins)
    versions = {pin.name.lower(): str(pin.specifier)[2:] for pin in pins}
    for requirement in map(Requirement, declared):
        if requirement.name == project["name"]:
            continue
        version = versions[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{requirement} but {version}"


def _locked() -> dict[str, list[tuple[str, str]]]:
    """The lock's versions by name, each with the hashes of its files."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
    locked = defaultdict(list)
    for line in lines:
        requirement, *hashes = line.split("--hash=")
        found = Requirement(requirement.strip())
        if found.marker is None or found.marker.evaluate():
            locked[canonicalize_name(found.name)].append((str(found.specifier)[2:], hashes))
    return locked


def test_the_lock_names_every_file_by_its_hash():
    for name, found in _locked().items():
        assert len(found) == 1, name  # one version where this Python runs
        for _, hashes in found:
            assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64} *", h) for h in hashes), name


def test_the_lock_holds_the_pins_and_all_that_they_need():
    """From the pins down through what the installed packages say of themselves."""
    locked = _locked()
    assert not [name for name in locked if name == "torch" or name.startswith("nvidia")]
    waiting = [(Requirement(line), "") for line in copies.pins()]
    seen = set()
    while waiting:
        wanted, extra = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in {"torch", "triton"} or name.startswith(("nvidia", "cuda")):
            continue  # torch is installed by its version, and pins these itself
        ((version, _),) = locked[name]
        assert wanted.specifier.contains(version, prereleases=True), (str(wanted), version)
        for extra in {"", *wanted.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in metadata.requires(name) or []:
                below = Requirement(line)
                if below.marker is None or below.marker.evaluate({"extra": extra}):
                    waiting.append((below, extra))
    assert len({name for name, _ in seen}) > len(copies.pins())


def test_the_lowest_versions_are_those_of_pyproject(monkeypatch, tmp_path):
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "a"\ndependencies = ["torch>=2.4", "x>=1.0.4,<2"]\n'
        '[project.optional-dependencies]\none = ["y==3", "ruff"]\ntest = ["a[one]", "z>=5"]\n'
        'bench = ["never==1"]\n'
    )
    monkeypatch.delenv("TORCH", raising=False)
    assert versions.wanted("lowest") == ["torch==2.4", "x==1.0.4", "y==3", "ruff", "z==5"]
    assert versions.wanted("newest") == ["torch>=2.4", "x>=1.0.4,<2", "y==3", "ruff", "z>=5"]
    monkeypatch.setenv("TORCH", "2.13.0")
    assert versions.wanted("lowest")[:2] == ["torch==2.13.0", "x==1.0.4"]


def test_workflows_run_make_on_every_python():
    """Their form; `actionlint` says more, where it is installed."""
    jobs, commands = {}, []
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        jobs |= yaml.safe_load(path.read_text())["jobs"]
    for job in jobs.values():
        assert set(job.get("needs", [])) <= set(jobs)
        commands += [step["run"] for step in job["steps"] if "run" in step]
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v0"))
    assert {command.split()[1] for command in commands} <= _targets()
    supported = ["3.11", "3.12", "3.13"]
    for name in ("tests", "newest"):
        assert jobs[name]["strategy"]["matrix"]["python"] == supported
    said = " ".join(jobs["tests"]["strategy"]["matrix"]["checks"] + commands)
    (checks,) = re.findall(r"^CHECKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(check in said for check in checks.split())


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="needs actionlint")
def test_actionlint_finds_nothing():
    done = subprocess.run(["actionlint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_library_pins_nothing_that_colab_brings():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        kinds = {specifier.operator for specifier in requirement.specifier}
        assert kinds == {">="}, requirement


def test_copies_of_the_address_the_version_and_the_pins_are_up_to_date():
    for path, text in copies.copies().items():
        assert path.read_text() == text, f"{path.name}: run scripts/copies.py write"


def test_the_address_stands_nowhere_else():
    """Changing pyproject.toml and running copies.py must be enough."""
    known = set(copies.copies()) | {ROOT / "pyproject.toml"} if copies.address() else set()
    # As long as there is none: the one that stood here, and that nobody owns.
    owner_and_name = copies.address().removeprefix("https://github.com/") or "semid-" + "book/"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.split("\n") if name]
    for path in set(files) - known:
        if path.suffix in {".py", ".md", ".toml", ".yml", ".cff", ".cfg", ""} and path.is_file():
            assert owner_and_name not in path.read_text(), path


def test_nobody_is_told_to_install_the_library_by_a_name_that_nobody_owns():
    """`pip install semid-lib` would run whatever someone puts there."""
    name = copies.project()["name"]
    by_name = re.compile(rf"pip install [^\n]*{name}")
    texts = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md"), *copies.chapters()]
    for path in [*texts, *(ROOT / "semid_lib").rglob("*.py")]:
        assert not by_name.search(path.read_text()), path


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A copy of this checkout whose owner has set an address, as RELEASING.md says."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.split("\n"):
        if (ROOT / name).is_file() and not name.endswith((".ipynb", ".json", ".csv")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(copies, "ROOT", tmp_path)
    place = tmp_path / "pyproject.toml"
    old = re.compile(r"^(?:# )?\[project.urls\]\n(?:# )?Repository.*$", re.MULTILINE)
    place.write_text(old.sub(f'[project.urls]\nRepository = "{OWNED}"', place.read_text()))
    return tmp_path


OWNED = "https://github.com/the-owner/a-book"


def test_one_line_of_pyproject_publishes_everywhere(published, monkeypatch):
    assert copies.address() == OWNED
    texts = {path.name: text for path, text in copies.copies().items()}
    assert yaml.safe_load(texts["CITATION.cff"])["repository-code"] == OWNED
    assert yaml.safe_load(texts["_config.yml"])["repository"]["url"] == OWNED
    assert "colab_url" in yaml.safe_load(texts["_config.yml"])["launch_buttons"]
    badges = texts["README.md"].count("/github/the-owner/a-book/blob/main/notebooks/")
    assert badges == len(copies.chapters())
    tag = f"v{copies.project()['version']}"
    assert f'"git+{OWNED}@{tag}"' in texts[copies.chapters()[0].name]
    for path, text in copies.copies().items():
        path.write_text(text)
    place = published / "pyproject.toml"
    place.write_text(place.read_text().replace(f'Repository = "{OWNED}"', ""))
    for path, text in copies.copies().items():
        assert "the-owner" not in text, path


def test_the_release_checklist_holds(published):
    said = (ROOT / "RELEASING.md").read_text()
    for step in ("[project.urls]", "`name`", "`version`", "copies.py write", "copies.py release"):
        assert step in said, step

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", *identity, *words], cwd=published, check=True, capture_output=True)

    git("init")
    for path, text in copies.copies().items():
        path.write_text(text)
    assert "there are changes that are not committed" in copies.before_release()
    git("add", "-A")
    git("commit", "-m", "release")
    tag = f"v{copies.project()['version']}"
    assert copies.before_release() == [f"the commit has no tag {tag}"]
    git("tag", tag)
    assert copies.before_release() == []
    (published / "CITATION.cff").write_text("version: 0\n")
    assert "CITATION.cff is out of date" in copies.before_release()


def test_citation_names_this_repository_or_none():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.get("repository-code", "") == copies.address()
    assert citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def _functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _body_lines(function) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body
    documented = ast.get_docstring(function, clean=False) is not None
    statements = body[1:] if documented else body
    return function.end_lineno - statements[0].lineno + 1 if statements else 0


def _code_lines(text: str) -> int:
    """Lines that are neither empty nor comment nor docstring."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_code_lines_are_counted_without_prose():
    text = '"""Doc."""\n\n# note\nx = [\n    1,  # one\n]\n\n'
    text += 'def f():\n    """Doc\n\n    more."""\n    return x\n'
    assert _code_lines(text) == 5  # x = [, 1, ], def, return


def test_functions_and_the_files_of_the_papers_methods_stay_short(capsys):
    texts = {path: path.read_text() for path in sorted((ROOT / "semid_lib").rglob("*.py"))}
    code = {path: _code_lines(text) for path, text in texts.items()}
    lines = {path: len(text.splitlines()) for path, text in texts.items()}
    with capsys.disabled():
        print("\n lines   code")
        for path in texts:
            print(f"{lines[path]:6} {code[path]:6}  {path.relative_to(ROOT)}")
        print(f"{sum(lines.values()):6} {sum(code.values()):6}  in all")
    for path, text in texts.items():
        if path.name in SITTING:
            assert lines[path] <= FILE_LINES, path
        for function in _functions(ast.parse(text)):
            assert _body_lines(function) <= FUNCTION_LINES, f"{path.name}: {function.name}"


def test_nothing_is_read_by_pickle():
    forbidden = re.compile(r"\bpickle\b|torch\.load\(|allow_pickle=True|joblib\.load|yaml\.load\(")
    for path in [*(ROOT / "semid_lib").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("#")[0]
            if "import" in code or "(" in code:
                assert not forbidden.search(code), f"{path.name}:{number}: {line.strip()}"


def _targets() -> set[str]:
    """What `make` knows."""
    named = re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return set(" ".join(named).split())


def test_commands_of_the_texts_exist():
    targets = _targets()
    texts = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md")]
    semid = set()
    for path in texts:
        text = path.read_text()
        for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
            assert target in targets, f"{path.name}: make {target}"
        for script in re.findall(r"\bscripts/[\w.]+", text):
            assert (ROOT / script).exists(), f"{path.name}: {script}"
        semid |= set(re.findall(r"(?:^|`)semid ((?:[a-z]+ ?){1,2})", text, re.MULTILINE))
    assert semid
    for command in semid:
        words = command.split()
        words = words if words[0] in {"data", "queue"} else words[:1]
        code = f"from semid_lib.cli import app; app({[*words, '--help']})"
        entry = [str(Path(sys.executable).with_name("semid")), *words, "--help"]
        run = entry if Path(entry[0]).exists() else [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, f"semid {command}: {done.stderr}"


def test_the_example_of_the_readme_runs(tmp_path):
    """On a folder of one's own: ids as text, two fields, one value missing."""
    names = ["tent", "lamp", "rope", *"abcdef"]
    rows = [f"u{u},{names[(u + step) % 9]},{step}" for u in range(30) for step in range(6)]
    (tmp_path / "interactions.csv").write_text("\n".join(["user,item,position", *rows]))
    items = [f"{name},{'ab'[i % 2]},{i % 3 or ''}" for i, name in enumerate(names)]
    (tmp_path / "items.csv").write_text("\n".join(["item,brand,kind", *items]))
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = example.replace("path/to/folder", str(tmp_path)).replace("epochs=20", "epochs=1")
    made = {}
    exec(example.replace("k=10", "k=3"), made)
    assert made["items"].shape == (1, 3) and set(made["items"][0]) < set(names)


def test_ci_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_says_which_python_it_needs(tmp_path):
    """A PATH with no fitting Python: an old one, and one without the venv module."""
    for tool in ("make", "sh", "uname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    for name in ("python3", "python3.12"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["make", "book"], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "No Python 3.11, 3.12 or 3.13" in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_test_goes_on_after_a_failure_and_lists_what_failed(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for place in (
        "scripts/environment.py",
        ".venv/bin/python",
        ".venv/bin/ruff",
        ".venv/bin/lint-imports",
        ".venv/bin/semid",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("#!/bin/sh\necho did $0 $*\n")
        (tmp_path / place).chmod(0o755)

    def make_test():
        command = ["make", "test", f"PYTHON={tmp_path / '.venv/bin/python'}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout.strip().split("\n")

    status, lines = make_test()
    (checks,) = re.findall(r"^CHECKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert status == 0 and lines[-1] == f"make test: passed: {checks}"
    (tmp_path / ".venv/bin/ruff").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / ".venv/bin/python").write_text(
        '#!/bin/sh\necho did $*\ncase "$*" in *--nbval*) exit 3;; esac\n'
    )
    status, lines = make_test()
    assert status != 0 and lines[-1] == "make test: failed: lint notebooks"
    assert "did -m pytest tests/book/test_browser.py -q" in lines  # what comes last


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_takes_the_first_python_that_fits(tmp_path):
    for tool in ("make", "sh", "uname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "python3.11").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.13").write_text('#!/bin/sh\nif [ "$1" = -c ]; then exit 0; fi\nexit 3\n')
    for name in ("python3.11", "python3.13"):
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["make", "-n", "environment"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "python3.13 scripts/environment.py" in done.stdout


def test_the_environment_is_renewed_when_the_pins_change(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(environment, "STAMP", tmp_path / "stamp")
    for name in ("requirements.txt", "requirements.lock"):
        (tmp_path / name).write_text("a==1\n")
    assert not environment.is_current()
    for name in ("requirements.txt", "requirements.lock"):
        (tmp_path / "stamp").write_text(environment.wanted_stamp() + "\n")
        assert environment.is_current()
        (tmp_path / name).write_text("a==2\n")
        assert not environment.is_current()
    (tmp_path / "stamp").write_text(environment.wanted_stamp())
    monkeypatch.setattr(environment, "PYTHON", Path(shutil.which("false")))
    assert not environment.is_current()
