"""`python -m diffusion.watch [FOLDER]`: live pages of the runs in a folder, in the browser."""

import secrets
import sys
from functools import partial
from pathlib import Path

from diffusion.console import console
from diffusion.errors import Arguments, UserError, exit_status

ABOUT = """\
Serve live pages of the runs in a folder: an index of all runs, and the contents of report.html for each run, sweep and
study. Nothing is written.

  python -m diffusion.watch                 the runs in outputs, at http://127.0.0.1:8300
  python -m diffusion.watch outputs/demo/…  one run, or one sweep
  python -m diffusion.watch --host 0.0.0.0  for other machines too, with a token in the address

Press Ctrl-C to stop.
"""


def main(arguments: list[str] | None = None) -> int:
    """Serve a folder until interrupted. Returns the exit status: 0, or 2 with one line on stderr."""
    parser = Arguments("watch", ABOUT)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8300, help="default: 8300; 0: any free port")
    asked = parser.parse_args(arguments)
    return exit_status(partial(watch, asked.folder, asked.host, asked.port), "choose another address or port")


def watch(folder: Path, host: str, port: int) -> None:
    """Serve the pages of the runs in `folder`. Raises UserError if the folder or the address is unusable."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; choose a folder with runs, such as outputs")
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: expected a number from 0 to 65535")
    from diffusion.watch.server import is_loopback, make_server

    token = None if is_loopback(host) else secrets.token_urlsafe(16)
    try:
        server = make_server(folder, host, port, token)
    except OSError as error:
        raise UserError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port or --host") from error
    shown = f"[{host}]" if ":" in host else host
    with server:
        address = f"http://{shown}:{server.server_address[1]}/" + (f"?token={token}" if token else "")
        console.print(f"watching {folder}: {address}", soft_wrap=True)
        console.print("press Ctrl-C to stop")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("stopped")


if __name__ == "__main__":
    sys.exit(main())
