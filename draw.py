"""Serves a page to draw on: what one draws is translated while one draws.

    python draw.py --checkpoint runs/demo/gen.pth.tar
    python draw.py --checkpoint facades_label2photo_net_G.pth --palette facades --port 8080
"""

import contextlib
import errno
import ipaddress
import json
import re
import socket
import webbrowser
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
import tyro
from werkzeug import exceptions
from werkzeug.routing import Map, Rule
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from inference.load import find_checkpoint, load_generator
from inference.page import check_page, choose_palette, example_of, find_examples, settings_of
from inference.translate import Translator
from pairs.images import png, read_picture
from runtime.console import run_main, say
from runtime.devices import memory_advice, use_device, use_precision
from utils import UserError

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # hosts for all of a machine's addresses, and one that is meant
BYTES = 32 * 2**20  # of a request's body
CLIENTS = 1000  # that are remembered
URLS = Map([Rule("/", methods=["GET"], endpoint="page"), Rule("/settings.json", methods=["GET"], endpoint="settings"),
            Rule("/example/<int:number>", methods=["GET"], endpoint="example"),
            Rule("/translate", methods=["POST"], endpoint="translate")])
HEADERS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
           "Cache-Control": "no-store", "Content-Security-Policy":
           "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
           "img-src blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"}


@dataclass(frozen=True)
class Draw:
    checkpoint: Path  # gen.pth.tar of a run, *_net_G.pth of the authors or its name, hf:USER/REPO, an address
    palette: str = ""  # demo, facades, cityscapes, edges or a JSON file; if not given, the training labels' colours
    host: str = "127.0.0.1"  # the address to listen at; 0.0.0.0 lets in whoever reaches this machine
    port: int = 8000  # 0 takes a free one
    browser: bool = True  # open the page
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto takes what the device does well, as predict.py


class App:
    """The WSGI application. Requests of one client (X-Client) that come while an older one waits take its place."""

    def __init__(self, opts: Draw):
        device = use_device(opts.device)
        use_precision(opts.precision, device)
        checkpoint = find_checkpoint(opts.checkpoint)
        gen = load_generator(checkpoint, device)
        self.gen, self.trained = gen, gen.trained
        check_page(self.trained)
        # The page draws in the size of the output, and the bands that are taken
        drawn = replace(self.trained, enlarge=1.0, bands_a=(), bands_b=())
        self.translator = Translator(gen, drawn, precision=opts.precision)
        self.palette = choose_palette(opts.palette, self.trained.colours)
        n = 0 if self.trained.x.limits else 100  # whose range would be taken again of what is shown black to white
        self.examples, self.host = find_examples(checkpoint, self.trained, n), opts.host.lower()
        self.lock, self.newest = Lock(), {}  # of the network; the newest request of each client

    def __call__(self, environ: dict, start_response):
        request = Request(environ)
        request.max_content_length = BYTES
        try:
            self.check_origin(request)
            endpoint, values = URLS.bind_to_environ(environ).match()
            response = getattr(self, endpoint)(request, **values)
        except exceptions.RequestEntityTooLarge:
            response = Response(f"the image takes more than {BYTES >> 20} MiB\n", 413)
        except exceptions.HTTPException as error:
            allow = [(name, value) for name, value in error.get_headers() if name == "Allow"]
            response = Response(f"{error.description}\n", error.code, allow)
        except UserError as error:
            response = Response(f"{error}\n", 400)
        response.headers.update(HEADERS)
        return response(environ, start_response)

    def check_origin(self, request: Request) -> None:
        """Refuses pages of other sites, also those whose name was made to lead to this machine (DNS rebinding)."""
        name = re.sub(r":\d+$", "", request.environ.get("HTTP_HOST", "")).strip("[]").lower()
        own = (self.host, "localhost", "127.0.0.1", "::1", socket.gethostname().lower())
        if name not in own and not (self.host in ANYWHERE and is_address(name)):
            raise exceptions.Forbidden("this address is not one of the server's own")
        site = request.headers.get("Sec-Fetch-Site")
        if site is None and (origin := request.headers.get("Origin")):  # browsers send no more to plain addresses
            asker = re.sub(r"^https?://", "", origin).lower()  # or null, of a page without a site
            site = "same-origin" if asker == request.environ.get("HTTP_HOST", "").lower() else "cross-site"
        if request.path != "/" and site not in ("same-origin", "none", None):
            raise exceptions.Forbidden("other sites may not ask")

    def page(self, request: Request) -> Response:
        return Response(Path(__file__).with_name("draw.html").read_bytes(), mimetype="text/html")

    def settings(self, request: Request) -> Response:
        found = settings_of(self.gen, self.palette, self.examples)
        return Response(json.dumps(found), mimetype="application/json")

    def translate(self, request: Request) -> Response:
        body, client, ticket = request.get_data(cache=False), request.headers.get("X-Client", ""), object()
        if len(body) >= BYTES:  # where no header tells the length, it is cut there
            raise exceptions.RequestEntityTooLarge
        if not re.match(rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP", body, re.DOTALL):
            raise exceptions.UnsupportedMediaType("the body must be an image: PNG, JPEG or WebP")
        if client:
            if len(self.newest) > CLIENTS:  # none is dropped for that
                self.newest.clear()
            self.newest[client] = ticket
        with self.lock, memory_advice("send a smaller image"):
            if self.newest.get(client, ticket) is not ticket:
                raise exceptions.Conflict("a newer drawing has taken this one's place")
            return answer(self.translator.numbers([read_picture(body)]))  # as predict.py writes it, to the pixel

    def example(self, request: Request, number: int) -> Response:
        """Input and target side by side, of the examples from 0 on."""
        if number >= len(self.examples):
            raise exceptions.NotFound(f"there are {len(self.examples)} examples, from 0 on")
        return answer(np.concatenate(example_of(self.examples[number], self.trained), axis=1))


def is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def answer(array: np.ndarray) -> Response:
    return Response(png(array), mimetype="image/png")


class Quiet(WSGIRequestHandler):
    def log_request(self, *_) -> None:  # one is sent at each move of the pen
        pass


def listen(app: App, host: str, port: int) -> BaseWSGIServer:
    """The server, which waits at this address. Raises UserError when it is taken or none of this machine's."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
            return make_server(host, port, app, threaded=True, request_handler=Quiet, fd=taken.fileno())
    except (OSError, OverflowError) as error:
        port_s = isinstance(error, OverflowError) or error.errno in (errno.EADDRINUSE, errno.EACCES)
        way_out = "--port 0 takes a free one" if port_s else "--host must be an address of this machine"
        raise UserError(f"cannot listen at {host}, port {port}: {error}; {way_out}") from error


@memory_advice("take another --device")
def main() -> None:
    opts = tyro.cli(Draw, description=__doc__)
    app = App(opts)
    server = listen(app, opts.host, opts.port)
    if not app.palette:
        say("the checkpoint tells of no label colours: the page takes photos; --palette gives classes to draw with")
    if opts.host != "localhost" and not (is_address(opts.host) and ipaddress.ip_address(opts.host).is_loopback):
        say(f"warning: whoever reaches {opts.host} may draw, without a password and unencrypted; see docs/draw.md")
    name = ANYWHERE.get(opts.host, opts.host)
    address = f"http://{f'[{name}]' if ':' in name else name}:{server.port}/"
    say(f"draw at {address} (Ctrl-C ends)")
    if opts.browser:
        webbrowser.open(address)
    server.serve_forever()


if __name__ == "__main__":
    run_main(main)
