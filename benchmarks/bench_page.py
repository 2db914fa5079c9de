"""What exported pages cost in headless Chromium: megabytes, seconds to the first picture, seconds a picture, in turns.

    python benchmarks/bench_page.py page page2

Pages come from a server on this machine, so that no network is measured. Seconds a picture are those of the page's own
caption, from a stroke to the output on the screen; CPU seconds are those of all processes that show pages, which other
programs disturb less. Needs playwright, and Chromium on the path.
"""

import functools
import shutil
import statistics
import threading
import time
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import common  # noqa: F401 (it finds the modules above this folder)
import tyro
from playwright.sync_api import Browser, Page, sync_playwright

from runtime.console import run_main
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
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_context(bypass_csp=True).new_page()  # to be asked how far it is
    begin = time.perf_counter()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    settle(page)
    return page, time.perf_counter() - begin


def settle(page: Page) -> None:
    page.wait_for_function("!document.body.hidden && !busy && !wanted && / s /.test($('time').textContent)",
                           polling=20, timeout=120_000)


def picture(browser: Browser, page: Page, n: int) -> tuple[float, float]:
    """Seconds of the page's caption for one more stroke, and CPU seconds."""
    before = cpu(browser)
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


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise UserError("no Chromium is on the path")
    for folder in options.pages:
        if not (folder / "settings.json").is_file():
            raise UserError(f"{folder} is no page that export.py --page wrote")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        pages = [opened(browser, folder) for folder in options.pages]
        times = [[] for _ in pages]
        for n in range(options.pictures):
            for (page, _), found in zip(pages, times, strict=True):
                found.append(picture(browser, page, n))
        runs_on = pages[0][0].locator("#time").inner_text().split("(")[-1].rstrip(")")
        print(f"{usable_cores()} cores, Chromium {browser.version}, {runs_on}, {options.pictures} pictures each")
        print(f"{'page':24} {'MB':>7} {'first, s':>9} {'s, median (range)':>20} {'CPU s, median':>14}")
        for folder, (_, first), found in zip(options.pages, pages, times, strict=True):
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
            walls, cpus = zip(*found, strict=True)
            spread = f"{statistics.median(walls):.2f} ({min(walls):.2f}–{max(walls):.2f})"
            print(f"{folder.name:24} {size:7.1f} {first:9.2f} {spread:>20} {statistics.median(cpus):14.2f}")
        browser.close()


if __name__ == "__main__":
    run_main(main)
