"""Serve live pages of the runs in a folder: an index of all runs, and the page of each run, sweep and study.

Nothing is written. Only this machine can open them; from another one, forward the port:
`ssh -L 8300:localhost:8300 HOST`. Press Ctrl-C to stop.

  python -m diffusion.watch                 the runs in outputs, at http://127.0.0.1:8300
  python -m diffusion.watch outputs/demo/…  one run, or one sweep
"""

import sys
from contextlib import suppress
from pathlib import Path

from diffusion.console import console
from diffusion.errors import Arguments, UserError


def main(arguments: list[str] | None = None) -> int:
    """Serve a folder until interrupted. Returns the exit status: 0, or 2 with one line on stderr."""
    parser = Arguments("watch", __doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--port", type=int, default=8300, help="default: 8300; 0: any free port")
    return parser.run(watch, arguments)


def watch(folder: Path, port: int) -> None:
    """Serve the pages of the runs in `folder`. Raises UserError if the folder or the port is unusable."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; choose a folder with runs, such as outputs")
    from diffusion.watch.server import make_server

    with make_server(folder, port) as server:
        console.print(f"watching {folder}: http://127.0.0.1:{server.server_address[1]}/", soft_wrap=True)
        console.print("press Ctrl-C to stop")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
