"""`python -m diffusion.studio ckpt=RUN`: a page in the browser to play with a trained model."""

import sys
from importlib.util import find_spec
from typing import Any

from diffusion.errors import Arguments, UserError, exit_status

ABOUT = """\
Serve a web page where a trained model draws: samples with their steps, images between two noises, variants of a
picture, or a part of it filled in. Each result shows the command that reproduces it.
The page is reachable only from this machine unless --host is set; it has no password, so everyone who reaches it can
use it.
"""


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until interrupted. Returns 0, or 2 after printing one line to stderr."""
    parser = Arguments("studio", ABOUT)
    parser.add_argument(
        "checkpoint", help="ckpt=RUN: a run's folder, a checkpoint, an exported file, a diffusers folder, or `last`"
    )
    parser.add_weights()
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="the port (default: 7860)")
    parser.add_argument(
        "--no-nearest", action="store_true", help="do not load the training images, so the nearest ones are not shown"
    )
    parser.add_config_dir()
    words = sys.argv[1:] if arguments is None else arguments
    chosen = parser.parse_args([word.removeprefix("ckpt=") for word in words])

    def serve() -> None:
        if find_spec("gradio") is None:
            raise UserError("the studio needs gradio: pip install 'diffusion-experiments[studio]'")
        from diffusion.checkpoint.find import opened  # imports torch, so only when it is needed
        from diffusion.config.choices import searching
        from diffusion.evaluation.devices import choose_device
        from diffusion.studio import page

        with searching([chosen.config_dir]):
            restored, device = opened(chosen.checkpoint, chosen.weights), choose_device(chosen.device)
            restored.denoiser.to(device)
            data = None if chosen.no_nearest else page.training_images(restored)
            address: Any = {"server_name": chosen.host, "server_port": chosen.port, "share": False}
            page.build(restored, device, data).launch(**address, ssr_mode=False, footer_links=[], theme=page.THEME)

    return exit_status(serve, "choose another --port")


if __name__ == "__main__":
    sys.exit(main())
