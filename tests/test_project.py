"""The ground: pins, environment.yml, Makefile, CI and README hold together."""

import re
import subprocess
import tomllib
from importlib import metadata
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


def test_every_line_of_the_lock_is_one_exact_pin_and_linux_s_packages_are_marked_so():
    for name, requirement in locked().items():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)) and requirement.url is None, requirement
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            assert requirement.marker.evaluate({"sys_platform": "linux"})
            assert not requirement.marker.evaluate({"sys_platform": "win32"})


def test_the_lock_satisfies_pyproject_and_is_what_is_installed_here():
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        version = str(locked()[canonicalize_name(requirement.name)].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), requirement
    for name in ("anomalib", "torch", "torchvision", "lightning", "timm", "papermill", "nbval", "pandas", "ruff"):
        assert metadata.version(name) == str(locked()[name].specifier).removeprefix("==")


def test_environment_yml_makefile_and_readme_install_the_same_set():
    environment = yaml.safe_load(read("environment.yml"))["dependencies"]
    assert "python=3.11" in environment and "PYTHON ?= python3.11" in read("Makefile")
    assert {"pip": ["--requirement requirements.lock", "--editable ."]} in environment
    assert "--requirement requirements.lock" in read("Makefile") and "-r requirements.lock" in read("README.md")


def test_make_alone_lists_every_target():
    help_text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE).group(1).split():
        assert re.search(rf"make {target}\s+\S", help_text), target


def test_ci_runs_the_readmes_own_test_command_and_the_gpu_job_keeps_the_notebooks():
    assert re.search(r"^make test$", read(".ci/run"), re.MULTILINE)
    assert re.search(r"^    make test\b", read("README.md"), re.MULTILINE)
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    assert any(".ci/run" in step.get("run", "") for step in jobs["cpu"]["steps"])
    steps = jobs["gpu"]["steps"]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert "assert torch.cuda.is_available()" in commands and "PROFILE=full" in commands
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
