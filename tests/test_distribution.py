"""The source distribution holds what a checkout holds, the wheel the package and nothing else."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tracked() -> set[str]:
    """The files of the checkout that git knows of."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no checkout of git")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return {name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()}


def built(kind: str, folder: Path) -> Path:
    """An sdist or a wheel of the project in a folder, without a network."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    (found,) = (folder / "dist").iterdir()
    return found


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution of the tracked files, and of caches beside them, unpacked."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    cache = folder / "tests/__pycache__/test_gaps.cpython-311.pyc"
    cache.parent.mkdir()
    cache.write_bytes(b"")
    with tarfile.open(built("sdist", folder)) as archive:
        archive.extractall(folder / "out", filter="data")
    (root,) = (folder / "out").iterdir()
    return root


def test_the_source_distribution_has_every_file_and_no_caches(unpacked: Path) -> None:
    names = {
        path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()
    }
    made = {name for name in names if name.startswith("ceag.egg-info/")}
    assert names - made == tracked() | {"PKG-INFO", "setup.cfg"}


def test_the_wheel_built_of_it_has_the_package_with_its_data_alone(unpacked: Path) -> None:
    with zipfile.ZipFile(built("wheel", unpacked)) as wheel:
        names = set(wheel.namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {name for name in tracked() if name.startswith("ceag_cli/")}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
