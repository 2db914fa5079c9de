#!/usr/bin/env bash
# Guess: a PDF's thinnest lines look alike whichever library draws the page: a line of width 0 is one pixel of ink, as
# the PDF reference has it, and a thin one has the ink of its width.
# What happens: PDFium draws every line at least one pixel wide, at any resolution. MuPDF draws by width, and a line of
# width 0 as one of an eighth to a fifth of a pixel: pale grey, with 5 to 8 times less ink. From a pixel on, both agree.
# Versions: PyMuPDF 2.0 (MuPDF), pypdfium2 5.15.2 (PDFium), NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: CAD programs write hairlines, and pairs of drawings and pictures are made from their PDFs. A
# network that learnt from one library's drawings gets others from the other, in which most lines are nearly white.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet pymupdf==2.0 pypdfium2==5.15.2 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pymupdf
import pypdfium2


def page(width):
    """A PDF of 100 x 100 points with one level line, black on white."""
    drawn = f"{width} w 10 49.7 m 90 49.7 l S"
    parts = ["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
             "<</Type/Page/Parent 2 0 R/MediaBox[0 0 100 100]/Contents 4 0 R/Resources<<>>>>",
             f"<</Length {len(drawn)}>>stream\n{drawn}\nendstream"]
    text, places = "%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(text))
        text += f"{number} 0 obj{part} endobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    return (f"{text}xref\n0 5\n0000000000 65535 f \n{table}trailer<</Size 5/Root 1 0 R>>\n"
            f"startxref\n{len(text)}\n%%EOF").encode()


def ink(column):
    """Of a column across the line: how many black pixels it would fill."""
    return round(float((1 - column / 255.0).sum()), 2)


def by_mupdf(content, dpi):
    pixels = pymupdf.open(stream=content)[0].get_pixmap(dpi=dpi, colorspace=pymupdf.csGRAY)
    return ink(np.frombuffer(pixels.samples, np.uint8).reshape(pixels.h, -1)[:, pixels.w // 2])


def by_pdfium(content, dpi):
    pixels = pypdfium2.PdfDocument(content)[0].render(scale=dpi / 72).to_numpy()
    return ink(pixels[:, pixels.shape[1] // 2, 0])


print("PyMuPDF", version("pymupdf"), "pypdfium2", version("pypdfium2"))
for width in (0, 0.1, 0.25, 1):
    for dpi in (72, 150, 300):
        content = page(width)
        wide = width * dpi / 72
        mupdf = by_mupdf(content, dpi)
        pdfium = by_pdfium(content, dpi)
        print(f"width {width} at {dpi} dpi, {wide:.2f} pixels: MuPDF {mupdf}, PDFium {pdfium} pixels of ink")
        assert abs(pdfium - max(1, wide)) < 0.05
        assert 0.1 < mupdf < 0.25 if width == 0 else abs(mupdf - wide) < 0.07
PYTHON
