"""The package in every state it can be in: source tree, wheel, editable, source distribution.

Nothing is downloaded: the environments see the running one's packages through a ``.pth`` file.
"""

from __future__ import annotations

import email
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "mixer_plugin": "mixer_plugin",
    "adapters": "mixer_plugin/adapters",
    "baselines": "mixer_plugin/baselines",
    "benchmarks": "mixer_plugin/benchmarks",
}
OTHER_SOURCES = [
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "Makefile",
    "mkdocs.yml",
    ".ci",
    "docs",
    "examples",
    "scripts",
    "tests",
]

# Without torch and numpy, which an isolated build has not.
BUILD = """
import sys
sys.modules.update(torch=None, numpy=None)
import setuptools.build_meta
print(getattr(setuptools.build_meta, sys.argv[1])(sys.argv[2]))
"""

# What must hold in every state; the interpreter's own directory is first on the path, as for -m.
PROBE = """
import importlib.resources, json, os
import mixer_plugin, mixer_plugin.adapters, mixer_plugin.baselines, mixer_plugin.benchmarks
from mixer_plugin.adapters.saai import SAAIAdapter

model = mixer_plugin.baselines.create_baseline("saai-base", 4, trunk="small")
assert isinstance(mixer_plugin.adapters.resolve_adapter(model), SAAIAdapter)
data = {}
for package, folder in [("baselines", "recipes"), ("benchmarks", "configs"),
                        ("benchmarks", "paper")]:
    place = importlib.resources.files(f"mixer_plugin.{package}") / folder
    files = place.rglob("*.*") if place.is_dir() else []
    data[folder] = sorted(f.name for f in files if f.suffix != ".pyc")
print(json.dumps({
    "version": mixer_plugin.__version__,
    "typed": (importlib.resources.files("mixer_plugin") / "py.typed").is_file(),
    "data": data,
    "from": {name: os.path.dirname(getattr(mixer_plugin, name).__file__)
             for name in ("adapters", "baselines", "benchmarks")},
}))
"""


def copy_sources(target: Path) -> Path:
    """A copy of what is packaged, so that what else lies in the root plays no part."""
    target.mkdir(parents=True)
    junk = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache")
    for name in [*FOLDERS, *OTHER_SOURCES]:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=junk)
        elif source.is_file():
            shutil.copy2(source, target / name)
    return target


def run(
    python: Path | str, *arguments: str, cwd: Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [str(python), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def build(kind: str, source: Path, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    result = run(sys.executable, "-c", BUILD, f"build_{kind}", str(out), cwd=source)
    return out / result.stdout.splitlines()[-1]


def make_environment(path: Path, *install: str) -> Path:
    """A new environment with the running one's dependencies; returns its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", str(path), cwd=path.parent)
    python = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=path
    ).stdout.strip()
    # .pth files *in* those folders are not read, so an editable install there stays out of sight.
    places = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (Path(site) / "dependencies.pth").write_text("\n".join(places))
    if install:
        pip = ["-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
        offline = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
        run(sys.executable, *pip, *offline, *install, cwd=path)
    return python


def probe(python: Path, cwd: Path) -> dict[str, object]:
    return json.loads(run(python, "-c", PROBE, cwd=cwd).stdout)


def expected_probe(root: Path, state: dict[str, object]) -> dict[str, object]:
    """What :data:`PROBE` prints, read off the source tree; ``from`` is each state's own."""
    version = re.search(r'__version__ = "(.+)"', (root / "mixer_plugin/__init__.py").read_text())
    assert version is not None
    folders = {"recipes": "baselines", "configs": "benchmarks", "paper": "benchmarks"}
    data = {
        folder: sorted(path.name for path in (root / parent / folder).rglob("*.*"))
        for folder, parent in folders.items()
    }
    return {"version": version[1], "typed": True, "data": data, "from": state["from"]}


def assert_entry_points_run(python: Path, root: Path, cwd: Path, script: bool) -> None:
    if (root / "mixer_plugin" / "cli.py").is_file():
        assert "usage" in run(python, "-m", "mixer_plugin.cli", "--help", cwd=cwd).stdout
        if script:
            command = python.parent / f"mixer-plugin{'.exe' if os.name == 'nt' else ''}"
            assert "usage" in run(command, "--help", cwd=cwd).stdout


def assert_guarded(python: Path, root: Path) -> None:
    for folder in ("adapters", "baselines", "benchmarks"):
        result = run(python, "-c", f"import {folder}", cwd=root, check=False)
        assert result.returncode != 0
        assert f"ImportError: import mixer_plugin.{folder}, not {folder}" in result.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("source") / "checkout")


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A build writes into its source tree.
    return build("wheel", shutil.copytree(source, folder / "tree"), folder / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("installed") / "env", str(wheel))


def wheel_names(root: Path) -> Iterator[str]:
    """Where the wheel must have each file of the four folders."""
    for folder, place in FOLDERS.items():
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root / folder)
            # Our results and notes for readers of the source stay behind.
            left = relative.parts[0] == "results" and folder == "benchmarks"
            if path.is_file() and not left and path.suffix not in (".pyc", ".md"):
                yield f"{place}/{relative.as_posix()}"


@pytest.mark.slow
def test_wheel_holds_every_file_below_one_name(wheel: Path, source: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    own = [name for name in names if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in own} == {"mixer_plugin"}
    assert sorted(own) == sorted(wheel_names(source))
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2, tops


@pytest.mark.slow
def test_wheel_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = {Path(n).name: n for n in archive.namelist() if ".dist-info/" in n}
    metadata = email.message_from_bytes(archive.read(info["METADATA"]))
    assert metadata["Name"] == "mixer-plugin"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    assert "LICENSE" in info
    requirements = metadata.get_all("Requires-Dist") or []
    hard = {line for line in requirements if "extra ==" not in line}
    assert hard == {"torch>=2.6", "numpy>=1.24", "pyyaml"}
    extras = {"all", "bench", "demo", "dev", "docs", "export", "faiss", "lightning", "milvus"}
    extras |= {"completion", "pretrained", "qdrant", "serve"}
    assert set(metadata.get_all("Provides-Extra") or []) == extras
    assert "mixer-plugin = mixer_plugin.cli:main" in archive.read(info["entry_points.txt"]).decode()


@pytest.mark.slow
def test_one_faiss_on_every_platform(wheel: Path) -> None:
    requirement = pytest.importorskip("packaging.requirements").Requirement
    archive = zipfile.ZipFile(wheel)
    name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    lines = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []
    for system, machine, expected in [
        ("Linux", "x86_64", "faiss-gpu"),
        ("Linux", "aarch64", "faiss-cpu"),
        ("Darwin", "arm64", "faiss-cpu"),
        ("Windows", "AMD64", "faiss-cpu"),
    ]:
        place = {"platform_system": system, "platform_machine": machine, "extra": "faiss"}
        parsed = [requirement(line) for line in lines]
        chosen = {
            r.name for r in parsed if "faiss" in r.name and r.marker and r.marker.evaluate(place)
        }
        assert chosen == {expected}


@pytest.mark.slow
def test_source_tree_not_installed(source: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    state = probe(python, source)
    assert state == expected_probe(source, state)
    assert state["from"] == {name: str(source / name) for name in list(FOLDERS)[1:]}
    assert_guarded(python, source)
    assert_entry_points_run(python, source, source, script=False)


@pytest.mark.slow
def test_wheel_from_another_folder(installed: Path, source: Path, tmp_path: Path) -> None:
    # A user's own folders of our names must not be taken for ours, nor ours for theirs.
    for name in ("adapters", "benchmarks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'user'")
    state = probe(installed, tmp_path)
    assert state == expected_probe(source, state)
    site = installed.parent.parent.resolve()
    assert all(site in Path(place).resolve().parents for place in state["from"].values())  # type: ignore[attr-defined]
    theirs = "import adapters, mixer_plugin.adapters as ours; assert adapters is not ours"
    run(installed, "-c", f"{theirs}; assert adapters.OWNER == 'user'", cwd=tmp_path)
    assert_entry_points_run(installed, source, tmp_path, script=True)


@pytest.mark.slow
def test_wheel_from_the_repository_root(installed: Path, source: Path) -> None:
    # The checkout's mixer_plugin/ hides the installed one and must find its folders by itself.
    state = probe(installed, source)
    assert state == expected_probe(source, state)
    assert state["from"] == {name: str(source / name) for name in list(FOLDERS)[1:]}
    assert_guarded(installed, source)
    assert_entry_points_run(installed, source, source, script=False)


@pytest.mark.slow
def test_editable(source: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(source, tmp_path / "tree")
    python = make_environment(tmp_path / "env", "--editable", str(tree))
    state = probe(python, tmp_path)
    assert state == expected_probe(source, state)
    assert state["from"] == {name: str(tree / name) for name in list(FOLDERS)[1:]}
    (tree / "adapters" / "brand_new.py").write_text("HERE = True")
    run(python, "-c", "from mixer_plugin.adapters.brand_new import HERE", cwd=tmp_path)
    assert_guarded(python, tree)
    assert_entry_points_run(python, source, tmp_path, script=True)


@pytest.mark.slow
def test_source_distribution_gives_the_same_wheel(
    wheel: Path, source: Path, tmp_path: Path
) -> None:
    archive = build("sdist", shutil.copytree(source, tmp_path / "tree"), tmp_path / "dist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    missing = [name for name in OTHER_SOURCES if not (unpacked / name).exists()]
    assert not [name for name in missing if (source / name).is_file()]
    for folder in ("examples", "tests", "scripts"):
        assert {p.name for p in (unpacked / folder).rglob("*.py")} == {
            p.name for p in (source / folder).rglob("*.py")
        }
    again = build("wheel", unpacked, tmp_path / "again")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_import_needs_no_optional_package(source: Path, tmp_path: Path) -> None:
    script = tmp_path / "blocked.py"
    script.write_text(
        """
import sys
OPTIONAL = {"torchvision", "faiss", "scipy", "PIL", "matplotlib", "tqdm", "jinja2", "umap"}
import torch, torch._dynamo, numpy, yaml  # what they pull in themselves is their affair
for name in [n for n in sys.modules if n.split(".")[0] in OPTIONAL]:
    del sys.modules[name]

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OPTIONAL:
            raise AssertionError(f"import mixer_plugin imports {name}")

sys.meta_path.insert(0, Blocker())
import mixer_plugin, mixer_plugin.adapters, mixer_plugin.baselines
from mixer_plugin import *
try:
    import scipy
except AssertionError as error:
    print("blocked:", error)
"""
    )
    # Not as a script in the root: its own folder, not the working one, is first on the path.
    code = f"import runpy, sys; sys.path.insert(0, '.'); runpy.run_path({str(script)!r})"
    result = run(sys.executable, "-c", code, cwd=source)
    assert "blocked: import mixer_plugin imports scipy" in result.stdout


def test_type_check_covers_every_shipped_module(source: Path) -> None:
    typecheck = runpy.run_path(str(source / "scripts" / "typecheck.py"))
    expected = {name for name in wheel_names(source) if name.endswith(".py")}
    assert typecheck["count_modules"](source) == len(expected)
    links = typecheck["build_link_tree"](source)
    typecheck["build_link_tree"](source)  # again: over the links of the last time
    found = {
        (Path(folder) / name).relative_to(links).as_posix()
        for folder, _, names in os.walk(links, followlinks=True)
        for name in names
        if name.endswith(".py")
    }
    assert found == expected


def test_every_folder_of_modules_is_a_package(source: Path) -> None:
    for folder in FOLDERS:
        for module in (source / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), module
