"""What is installed is whole: files that are data come along with the code, and the command is there."""

from __future__ import annotations

import configparser
import fnmatch
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "runner"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DATA = {
    "runner/py.typed",
    "runner/catalog/catalog.yaml",
    "runner/ledger/migrations/script.py.mako",
    "runner/cli/templates/manifest.yaml",
}


def _source_files() -> set[str]:
    """Every file below the package that somebody wrote."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_of_the_package_is_declared() -> None:
    """Code lies in packages, and all other files match `package-data`: none would be missing after an installation."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["runner"]
    for name in _source_files():
        if name.endswith(".py"):
            assert (ROOT / name).with_name("__init__.py").exists(), f"{name} is in a folder that is no package"
        else:
            inside = name.removeprefix("runner/")
            assert any(fnmatch.fnmatchcase(inside, pattern) for pattern in patterns), f"{name} is in no package-data"
    assert _source_files() >= DATA


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of a copy of the project, so that nothing is left in the project's own folder."""
    copy, out = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, copy / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", str(copy), "--no-deps", "--wheel-dir", str(out), "--quiet"]
    # With the setuptools that is installed for development: building in isolation would need the network.
    command.append("--no-build-isolation")
    built = subprocess.run(
        [*command, "--disable-pip-version-check"], cwd=copy, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    return zipfile.ZipFile(path)


def test_a_wheel_has_every_file(wheel: zipfile.ZipFile) -> None:
    """The catalog, the migrations with their template, the first manifest, the marker of types: all that is there."""
    with wheel as archive:
        names = set(archive.namelist())
        assert names >= DATA
        assert any(fnmatch.fnmatch(name, "runner/ledger/migrations/versions/v*.py") for name in names)
        inside = {name for name in names if name.startswith("runner/")}
        assert inside == _source_files()
        (listed,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        scripts = configparser.ConfigParser()
        scripts.read_string(archive.read(listed).decode())
        assert scripts["console_scripts"]["runner"] == "runner.cli:main"
        # Tests, jobs and documents stay in the repository.
        assert {name.split("/")[0].partition("-")[0] for name in names} == {"runner"}
