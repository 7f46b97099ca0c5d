"""Pictures of a run's report for the docs, taken in a headless Chromium.

    python tools/report_pictures.py RUN docs/images

Writes report-light.png (the head of the page and its first curves), report-dark.png
(the same in dark), report-zoomed.png (curves of a part of the run) and
report-phone.png. Each has 256 colours; together they stay below 600 KB.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import Browser, browser, executable

MOST_BYTES = 600_000


def main() -> int:
    """Take the pictures; 1 without a browser, or when they are too large."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if executable() is None:
        print("no chromium here", file=sys.stderr)
        return 1
    from lumina.observe.report import write_report

    page = write_report(args.run)
    args.folder.mkdir(parents=True, exist_ok=True)
    total = 0
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as shown:
        for name, picture in pictures(shown, page):
            path = args.folder / f"report-{name}.png"
            path.write_bytes(reduced(picture))
            total += path.stat().st_size
            print(f"{path}: {path.stat().st_size:,} bytes")
    if shown.console:
        print(f"the page wrote to its console: {shown.console}", file=sys.stderr)
    return int(total > MOST_BYTES or bool(shown.console))


def pictures(shown: Browser, page: Path):
    """(name, PNG) of each."""
    for scheme in ("light", "dark"):
        shown.prefer(scheme)
        shown.open(page, 1160)
        yield scheme, shown.picture(x=0, y=0, width=1160, height=1180)
    shown.prefer("light")
    shown.open(page, 1160)
    shown.run(
        "show(whole[0] + (whole[1] - whole[0]) * 0.3, whole[0] + (whole[1] - whole[0])"
        " * 0.6); view.at = Math.round((view.from + view.to) / 2); tellAll()"
    )
    top = shown.run("document.getElementById('curves').offsetTop")
    yield "zoomed", shown.picture(x=0, y=top, width=1160, height=760)
    shown.open(page, 390)
    yield "phone", shown.picture(x=0, y=0, width=390, height=1180)


def reduced(picture: bytes) -> bytes:
    """The same with 256 colours, which a page of text does not show."""
    from PIL import Image

    out = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(
        256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    ).save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
