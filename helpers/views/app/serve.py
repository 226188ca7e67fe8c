"""The inspection page in a browser: Voilà serves notebook 10, to this machine alone and without a network.

    python -m helpers.views.app.serve --dataset datasets/mesh --profile quick

It prints an address with a token, new each time (SECURITY.md). Everybody who opens the page has a kernel of their own,
which ends with the page. What is served is a copy of the notebook with these parameters, in ``artifacts/app/``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError, RequestHandler
from traitlets.config import Config
from voila.app import Voila

from helpers.paths import NOTEBOOKS_FOLDER, project_path
from helpers.session import collect_parameters, dataset_name

NOTEBOOK = Path("10_inspection_app.ipynb")
VIEWS = Path(__file__).parents[1]  # holds voila/templates, where Voilà looks on the JUPYTER_PATH
MOST_BYTES_AT_ONCE = 2**30  # of all photos that are dropped together; Tornado's own limit is 10 MiB
IDLE_SECONDS = 600  # a kernel whose page is gone
MOST_KERNELS = 8  # of about 1 GB each


class FewKernels(AsyncMappingKernelManager):
    """Starts no more than `MOST_KERNELS` at a time."""

    starting = 0

    async def start_kernel(self, **options: Any) -> str:
        if self.starting + len(self.list_kernel_ids()) >= MOST_KERNELS:
            raise HTTPError(503, f"{MOST_KERNELS} pages are open. Close one, or wait {IDLE_SECONDS // 60} minutes.")
        self.starting += 1
        try:
            return await super().start_kernel(**options)
        finally:
            self.starting -= 1


def _set_xsrf_cookie(handler: RequestHandler, **_: Any) -> None:
    """Without this cookie a page that is left cannot end its kernel: Voilà's request is refused."""
    handler.xsrf_token  # noqa: B018  reading it sets it


def voila_settings(port: int) -> dict[str, dict[str, Any]]:
    """How Voilà is configured, by its classes."""
    return {
        "Voila": {
            "ip": "127.0.0.1",
            "port": port,
            "open_browser": False,  # its command line would hold the token, and command lines are public
            "auto_token": True,
            # Voilà allows any Host, so that a name that a website turns to this machine would do
            "tornado_settings": {"websocket_max_message_size": MOST_BYTES_AT_ONCE, "allow_remote_access": False},
        },
        "IdentityProvider": {"cookie_options": {"SameSite": "Strict"}},
        "VoilaConfiguration": {
            "template": "inspection",
            "theme": "light",
            "strip_sources": True,
            "extension_allowlist": ["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8"],
            "multi_kernel_manager_class": FewKernels,
            "prelaunch_hook": _set_xsrf_cookie,
        },
        "VoilaExporter": {"exclude_markdown": True},
        "TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": {"report"}},
        "NotebookNotary": {"secret": os.urandom(32), "db_file": ":memory:"},  # else it writes to the home folder
        # Every user of this machine can read a kernel's TCP ports; other systems may find a socket's path too long.
        "KernelManager": {"transport": "ipc" if sys.platform == "linux" else "tcp"},
        "MappingKernelManager": {"cull_idle_timeout": IDLE_SECONDS, "cull_interval": 60},
    }


def prepare_page(dataset: str, profile: str, artifacts: str, settings: Sequence[str] = ()) -> Path:
    """Write the copy of the notebook that is served, with the profile's parameters and settings (``NAME=VALUE``);
    ParameterError: one that is unknown, or a value of another type."""
    import papermill

    own = [setting if setting.startswith("10.") else f"10.{setting}" for setting in settings]
    given = {"DATASET": dataset, "PROFILE": profile, "ARTIFACTS": project_path(artifacts)}
    values = collect_parameters(NOTEBOOKS_FOLDER, profile, own, given)[NOTEBOOK.stem]
    copy = project_path(artifacts) / "app" / f"{dataset_name(dataset)}-{profile}" / NOTEBOOK.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    options = {"parameters": values, "prepare_only": True, "progress_bar": False}
    papermill.execute_notebook(str(NOTEBOOKS_FOLDER / NOTEBOOK), str(copy), **options)
    return copy


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit status."""
    text = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m helpers.views.app.serve", **text)
    parser.add_argument("--dataset", default="datasets/mesh", help="whose runs are offered first")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--artifacts", default="artifacts")
    parser.add_argument("--port", type=int, default=8866, help="default: 8866, or the next one that is free")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    try:
        page = prepare_page(options.dataset, options.profile, options.artifacts, options.settings)
    except (ValueError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 2
    for name in ("HELPERS_HEADLESS", "CI"):  # a page is watched, whoever started its server
        os.environ.pop(name, None)
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(VIEWS), os.environ.get("JUPYTER_PATH")]))
    Voila.launch_instance([str(page)], config=Config(voila_settings(options.port)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
