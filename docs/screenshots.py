"""Take the pictures of pages that the documentation shows, of a run of the demo, in the browser of the tests.

    diffusion train experiment=demo hydra.run.dir=DEMO
    python docs/screenshots.py DEMO

It writes docs/report.png, docs/denoising.png and docs/studio.png.
"""

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).resolve().parent
sys.path.append(str(DOCS.parent / "tests/support"))
from browser import headless, visit  # noqa: E402


def picture(page: Any, name: str, first: Any, last: Any) -> None:
    """Save the page from the top of one element to the end of another, with a margin."""
    top, end = first.bounding_box(), last.bounding_box()
    y = max(0, top["y"] - 8)
    height = end["y"] + end["height"] + 8 - y
    clip = {"x": 0, "y": y, "width": page.viewport_size["width"], "height": height}
    taken = Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True)))
    taken.convert("RGB").quantize(256).save(DOCS / name, optimize=True)


def report(browser: Any, run: Path) -> None:
    """The top of the run's page, and its denoising steps."""
    with visit(browser, (run / "report.html").resolve().as_uri(), 900) as seen:
        picture(seen.page, "report.png", seen.page.locator("h1"), seen.page.locator("#next-step"))
        seen.slide("denoising step", 15)
        steps = seen.page.locator("#denoising")
        picture(seen.page, "denoising.png", steps, steps)


def studio(browser: Any) -> None:
    """The studio of the bundled model at its usual address, after some drawings of four pictures."""
    command = [sys.executable, "-m", "diffusion", "studio", "demo"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = next(found[0] for line in server.stdout or () if (found := re.search(r"http://\S+", line)))
        with visit(browser, address, 1300) as seen:
            page = seen.page
            for seed in (0, 1, 2, 6, 4, 3):
                if seed:  # the page opens with the drawing of seed 0
                    field = page.get_by_label("Seed", exact=True).first
                    field.fill(str(seed))
                    field.press("Enter")
                page.get_by_text(f"seed={seed} n=4", exact=True).wait_for(timeout=120_000)
                page.wait_for_timeout(2000)  # the page may still change its fields
            body = page.locator("body")
            picture(page, "studio.png", body, body)
    finally:
        server.terminate()


if __name__ == "__main__":
    with headless() as browser:
        report(browser, Path(sys.argv[1]))
        studio(browser)
