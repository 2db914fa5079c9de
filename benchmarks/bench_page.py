"""What exported pages cost in headless Chromium: megabytes, seconds to the first picture, seconds a picture, in turns.

    python benchmarks/bench_page.py page page2

Pages come from a server on this machine, so that no network is measured. Seconds a picture are those of the page's own
caption, from a stroke to the output on the screen; CPU seconds are those of all processes that show pages, which other
programs disturb less. Needs playwright, and Chromium on the path.
"""

import itertools
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import common
import torch
import tyro
from playwright.sync_api import Browser, Page, sync_playwright

from runtime.devices import usable_cores
from utils import UserError

BROWSERS = "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome"


@dataclass(frozen=True)
class Options:
    pages: tyro.conf.Positional[tuple[Path, ...]]  # folders of export.py --page
    pictures: int = 20  # of each page


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def opened(browser: Browser, folder: Path) -> tuple[Page, float]:
    """The page with its first picture, and the seconds that this took."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_context(bypass_csp=True).new_page()  # to be asked how far it is
    begin = time.perf_counter()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    settle(page)
    return page, time.perf_counter() - begin


def settle(page: Page) -> None:
    page.wait_for_function("!document.body.hidden && !busy && !wanted && / s /.test($('time').textContent)",
                           polling=20, timeout=120_000)


def picture(browser: Browser, page: Page, numbers: Iterator[int]) -> tuple[float, float]:
    """Seconds of the page's caption for one more stroke, and CPU seconds."""
    before, n = cpu(browser), next(numbers)
    box = page.locator("#drawing").bounding_box()
    page.mouse.click(box["x"] + box["width"] * (n % 7 + 1) / 8, box["y"] + box["height"] * (n % 5 + 1) / 6)
    settle(page)
    caption = page.locator("#time").inner_text()
    return float(caption.split(", ")[1].split(" s")[0]), cpu(browser) - before


def cpu(browser: Browser) -> float:
    """Seconds of all renderers since they began."""
    session = browser.new_browser_cdp_session()
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return sum(process["cpuTime"] for process in found if process["type"] == "renderer")


def bench(opts: Options, device: torch.device) -> Iterator[dict]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise UserError("no Chromium is on the path")
    for folder in opts.pages:
        if not (folder / "settings.json").is_file():
            raise UserError(f"{folder} is no page that export.py --page wrote")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        pages = {folder: opened(browser, folder) for folder in opts.pages}
        times = common.in_turns({folder: partial(picture, browser, page, itertools.count())
                                 for folder, (page, _) in pages.items()}, opts.pictures)
        page, _ = pages[opts.pages[0]]
        runs_on = page.locator("#time").inner_text().split("(")[-1].rstrip(")")
        print(f"{usable_cores()} cores, Chromium {browser.version}, {runs_on}, {opts.pictures} pictures each")
        print(f"{'page':24} {'MB':>7} {'first, s':>9} {'s, median (range)':>22} {'CPU s, median':>14}")
        for folder, (_, first) in pages.items():
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
            walls, cpus = zip(*times[folder], strict=True)
            row = {"page": folder.name, "mb": size, "first": first, "cpu": statistics.median(cpus),
                   **common.spread(walls)}
            print(f"{folder.name:24} {size:7.1f} {first:9.2f} {common.told(row):>22} {row['cpu']:14.2f}")
            yield row
        browser.close()


if __name__ == "__main__":
    common.start(Options, bench, __doc__)
