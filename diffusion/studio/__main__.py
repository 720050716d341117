"""Serve a web page where a trained model draws, and shows the command that reproduces each result.

It draws samples with their steps, images between two noises, variants of a picture, or a part of it filled in. The page
is reachable only from this machine unless --host is set; it has no password, so everyone who reaches it can use it.
"""

import sys
from importlib.util import find_spec
from typing import Any

from diffusion.errors import Arguments, UserError


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until interrupted. Returns 0, or 2 after printing one line to stderr."""
    parser = Arguments("studio", __doc__)
    parser.add_argument(
        "checkpoint", help="ckpt=RUN: a run's folder, a checkpoint, an exported file, a diffusers folder, or `last`"
    )
    parser.add_weights()
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="the port (default: 7860)")
    parser.add_config_dir()
    return parser.run(serve, [word.removeprefix("ckpt=") for word in arguments or sys.argv[1:]])


def serve(checkpoint: str, weights: str | float, device: str, host: str, port: int, config_dir: str | None) -> None:
    """Serve the page: without a public link, and without fonts of other servers."""
    if find_spec("gradio") is None:
        raise UserError("the studio needs gradio: pip install 'diffusion-experiments[studio]'")
    from diffusion.checkpoint.find import opened  # imports torch, so only when it is needed
    from diffusion.config.choices import searching
    from diffusion.evaluation.together import choose_device
    from diffusion.studio import page

    with searching([config_dir]):
        blocks = page.build(opened(checkpoint, weights), choose_device(device))
        address: Any = {"server_name": host, "server_port": port, "share": False}
        blocks.launch(**address, ssr_mode=False, footer_links=[], theme=page.THEME)


if __name__ == "__main__":
    sys.exit(main())
