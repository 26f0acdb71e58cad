"""What pip installs: the modules and the shipped weights, from wheel, sdist and checkout, and nothing else."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import check  # noqa: E402


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what packaging reads, with weights of its own and things that must stay out."""
    root = tmp_path_factory.mktemp("project")
    for name in ("setup.py", "settings.ini", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md"):
        shutil.copyfile(ROOT / name, root / name)
    shutil.copytree(ROOT / "fsskit", root / "fsskit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "weights/tiny.safetensors",
        "weights/tiny.md",
        "weights/downloads/big.safetensors",
        "tests/test_x.py",
        "tools/x.py",
        "nbs/x.py",
        "data/x.json",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / ".gitignore").write_text("weights/downloads/\n")
    subprocess.run(["git", "init", "-q", "."], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def archives(project, tmp_path_factory):
    return check.build(project, tmp_path_factory.mktemp("dist"))


def test_wheel_and_sdist_hold_what_they_should(project, archives):
    assert check.package_faults(project, *archives) == []


def test_weights_travel_and_downloads_do_not(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        assert sorted(n for n in wheel.namelist() if "weights" in n) == [
            "fsskit/weights/tiny.md",
            "fsskit/weights/tiny.safetensors",
        ]
    with tarfile.open(archives[0]) as sdist:
        assert sorted(Path(n).name for n in sdist.getnames() if "/weights/" in n) == ["tiny.md", "tiny.safetensors"]


def test_faults_are_found(project, archives, tmp_path):
    broken = tmp_path / archives[1].name
    with zipfile.ZipFile(archives[1]) as old, zipfile.ZipFile(broken, "w") as new:
        for item in old.namelist():
            if "tiny.safetensors" not in item and "licenses" not in item:
                new.writestr(item, old.read(item).replace(b"Apache-2.0", b"MIT"))
        new.writestr("tests/test_x.py", "")
    faults = "\n".join(check.package_faults(project, archives[0], broken))
    for what in (
        "tests/test_x.py does not belong",
        "fsskit/weights/tiny.safetensors is missing",
        "no licence file",
        "not declared as Apache-2.0",
    ):
        assert what in faults


def test_an_installed_wheel_finds_its_weights(archives, tmp_path):
    with zipfile.ZipFile(archives[1]) as wheel:
        wheel.extractall(tmp_path / "site")
    code = "from fsskit.fetch import shipped_weights; print(shipped_weights('tiny.safetensors'))"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FSSKIT_", "COVERAGE_", "COV_"))} | {
        "PYTHONPATH": str(tmp_path / "site")
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert Path(done.stdout.strip()) == tmp_path / "site/fsskit/weights/tiny.safetensors", done.stderr


def test_metadata_of_the_editable_install():
    meta = metadata.metadata("fsskit")
    assert meta["License-Expression"] == "Apache-2.0" and meta["Requires-Python"] == ">=3.10"
    assert meta.get_all("Provides-Extra") == ["dev"]
    assert {e.name: e.value for e in metadata.entry_points(group="console_scripts") if e.name == "fsskit"} == {
        "fsskit": "fsskit.cli:main"
    }


def test_the_checkouts_weights_are_those_of_the_editable_install():
    from fsskit.fetch import shipped_weights

    names = [path.name for path in (ROOT / "weights").glob("*.safetensors")]
    assert names and all(shipped_weights(name) == ROOT / "weights" / name for name in names)


def test_version_is_the_one_of_settings_ini():
    import fsskit

    assert fsskit.__version__ == metadata.version("fsskit") == check.environments.settings(ROOT)["version"]


SETTINGS = """[
    torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.is_grad_enabled(),
    torch.initial_seed(), torch.backends.cudnn.benchmark, numpy.geterr(), matplotlib.get_backend(),
    dict(matplotlib.rcParams), dict(os.environ), PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES]"""
IMPORT_ALL = f"""
import importlib, os, pkgutil
import matplotlib, numpy, torch, torchvision, timm, PIL.Image, PIL.ImageFile
before = {SETTINGS}
import fsskit
for module in pkgutil.iter_modules(fsskit.__path__):
    importlib.import_module('fsskit.' + module.name)
for old, new in zip(before, {SETTINGS}):
    assert old == new, (old, new)
"""


def test_matching_with_the_embedded_encoder_imports_nothing_that_it_does_not_need():
    """Together, timm, torchvision and matplotlib take longer to import than torch."""
    program = """import sys; from fsskit.predictor import create_model; create_model('dense_match')
print(*sorted({'timm', 'torchvision', 'matplotlib', 'segment_anything', 'sam2'} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "\n"


def test_importing_everything_changes_no_global_setting():
    env = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
