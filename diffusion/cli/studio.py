"""Serve a web page where a trained model draws, and shows the command that reproduces each result.

It draws samples with their steps, images between two noises, variants of a picture, or a part of it filled in. The page
is reachable only from this machine unless --host is set; it has no password, so everyone who reaches it can use it.

  diffusion studio demo     the model that comes with the package, at http://127.0.0.1:7860
  diffusion studio last     the run in outputs that saved most recently
"""

from typing import Any

from diffusion.base.console import console
from diffusion.errors import Arguments, UserError, imported
from diffusion.runs.processes import begin_process

LOCAL = ["127.0.0.1", "localhost"]


def serve(checkpoint: str, weights: str | float, device: str, host: str, port: int, config_dir: str | None) -> None:
    """Serve the page: without a public link, and without fonts of other servers."""
    begin_process()
    imported("gradio", "the studio", "studio")
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from diffusion.checkpoint.find import opened  # imports torch, so only when it is needed
    from diffusion.config.choices import searching
    from diffusion.sampling.parallel import choose_device
    from diffusion.studio import page

    with searching([config_dir]):
        blocks = page.build(opened(checkpoint, weights), choose_device(device))
        address: Any = {"server_name": host, "server_port": port, "share": False, "quiet": True, "ssr_mode": False}
        # another name than this machine's may be a stranger's, for this address (DNS rebinding)
        names = LOCAL if host in LOCAL else ["*"]
        guard = {"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=names)]}
        try:
            blocks.launch(
                **address, app_kwargs=guard, footer_links=[], theme=page.THEME, css=page.CSS, prevent_thread_lock=True
            )
        except (OSError, OverflowError) as error:
            about = f"--host {host} --port {port}: taken, or no address of this machine"
            raise UserError(f"{about}; choose another port, from 1024 to 65535") from error
        console.print(f"studio of {checkpoint}: {blocks.local_url} (Ctrl-C to stop)", soft_wrap=True)
        blocks.block_thread()


main = Arguments("studio", __doc__, serve)
main.add_model()
main.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
main.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
main.add_argument("--port", type=int, default=7860, help="the port (default: 7860)")
main.add_config_dir()
