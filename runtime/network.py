"""Files from the network: whole, or a sentence."""

import http.client
import re
import shutil
import urllib.request
from typing import BinaryIO
from urllib.parse import quote

from tqdm import tqdm

from utils import UserError

ALLOWED = "!#$%&'()*+,/:;=?@[]~"  # in an address, beside letters and digits; browsers show the others as they are


def download(url: str, file: BinaryIO, timeout: float = 30.0) -> None:
    """Writes what lies at `url`, or where that leads to, into `file`.

    timeout: seconds without an answer. Raises UserError, whose words are the reason alone, where the network, the
    server or the length fails; an error of writing stays the OSError that it is.
    """
    try:
        response = urllib.request.urlopen(quote(url, safe=ALLOWED), timeout=timeout)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(reason_of(error)) from error
    with response:
        size = response.length or 0  # what the server tells, if that is a number
        start = file.tell()
        with tqdm.wrapattr(Reader(response), "read", size or None, desc="downloading", disable=None) as source:
            shutil.copyfileobj(source, file, 2**20)
        if size and file.tell() - start != size:
            raise UserError(f"the connection ended after {file.tell() - start} of {size} bytes")


class Reader:
    """A response whose errors are told from those of the file that it is written to."""

    def __init__(self, response: http.client.HTTPResponse):
        self.response = response

    def read(self, size: int) -> bytes:
        try:
            return self.response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise UserError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """What went wrong, without the words of the library around it."""
    text = re.sub(r"^<urlopen error (.+)>$", r"\1", str(error), flags=re.DOTALL) or type(error).__name__
    return re.sub(r"^\[Errno -?\d+\] ", "", text)
