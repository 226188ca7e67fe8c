"""The ground: pins, environment.yml, Makefile, CI and README hold together."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def locked() -> dict[str, Requirement]:
    lines = [line for line in read("requirements.lock").splitlines() if line.strip() and not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def wanted() -> list[Requirement]:
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]


def test_every_line_of_the_lock_is_one_exact_pin():
    for requirement in locked().values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert requirement.url is None


@pytest.mark.parametrize("requirement", wanted(), ids=lambda requirement: requirement.name)
def test_the_lock_satisfies_pyproject(requirement: Requirement):
    pin = locked()[canonicalize_name(requirement.name)]
    version = str(pin.specifier).removeprefix("==")
    assert requirement.specifier.contains(version)


def test_the_lock_is_what_is_installed_here():
    from importlib import metadata

    for name in ("anomalib", "torch", "torchvision", "lightning", "timm", "papermill", "nbval", "pandas", "ruff"):
        assert metadata.version(name) == str(locked()[name].specifier).removeprefix("==")


def test_linux_only_packages_are_marked_so():
    for name, requirement in locked().items():
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            assert requirement.marker is not None
            assert requirement.marker.evaluate({"sys_platform": "linux"})
            assert not requirement.marker.evaluate({"sys_platform": "win32"})


def test_environment_yml_makefile_and_readme_install_the_same_set():
    environment = yaml.safe_load(read("environment.yml"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["--requirement requirements.lock", "--editable ."]
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert python == "python=3.11"
    makefile = read("Makefile")
    assert "--requirement requirements.lock" in makefile
    assert "PYTHON ?= python3.11" in makefile
    assert "-r requirements.lock" in read("README.md")


def test_make_alone_lists_every_target():
    help_text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert phony is not None
    for target in phony.group(1).split():
        assert re.search(rf"make {target}\s+\S", help_text), target


def test_ci_runs_the_readmes_own_test_command():
    assert re.search(r"^make test$", read(".ci/run"), re.MULTILINE)
    assert re.search(r"^    make test\b", read("README.md"), re.MULTILINE)


def test_the_gpu_job_asserts_a_gpu_and_keeps_the_notebooks():
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    assert any(".ci/run" in step.get("run", "") for step in jobs["cpu"]["steps"])
    steps = jobs["gpu"]["steps"]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert "assert torch.cuda.is_available()" in commands
    assert "PROFILE=full" in commands
    kept = next(step for step in steps if "upload-artifact" in step.get("uses", ""))["with"]["path"]
    assert "notebooks" in kept


def test_nothing_that_runs_leave_behind_is_tracked():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("this is no git checkout")
    for folder in ("artifacts", "datasets"):
        assert {path for path in tracked if path.startswith(f"{folder}/")} <= {f"{folder}/README.md"}


def test_readme_names_files_that_exist():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", read("README.md")):
        assert (ROOT / link).exists(), link
