"""Runs the demo and puts what it printed, and the pictures it made, into the README's first screen.

    python docs/refresh_demo.py

Nothing in that part of the README is written by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
README, SHEET = ROOT / "README.md", ROOT / "docs" / "images" / "demo.png"
BEGIN, END = "<!-- demo output: docs/refresh_demo.py -->\n", "<!-- end of demo output -->"
SIDE, GAP = 192, 8


def main() -> int:
    """Exit code of the demo; the README changes only when it is 0."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "node.py"), "demo"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0:
            contact_sheet(sorted(Path(folder, "pasar-demo").glob("*.png"))[:3])
            put(done.stdout)
    return done.returncode


def contact_sheet(files: list[Path]) -> None:
    """The pictures side by side, enlarged pixel by pixel."""
    sheet = Image.new("RGB", (len(files) * (SIDE + GAP) - GAP, SIDE), "white")
    for place, file in enumerate(files):
        sheet.paste(
            Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), (place * (SIDE + GAP), 0)
        )
    SHEET.parent.mkdir(exist_ok=True)
    sheet.save(SHEET, optimize=True)


def put(story: str) -> None:
    """The story between the marks: the end of it first, then all.

    Addresses are shortened, and the folder of this machine's temporary files is not named; nothing else is changed.
    """
    story = story.replace(f"{tempfile.gettempdir()}/", "$TMPDIR/")
    shown = re.sub(r"0x([0-9a-fA-F]{4})[0-9a-fA-F]{32}([0-9a-fA-F]{4})", r"0x\1…\2", story.strip("\n"))
    told, summary = shown.rsplit("\n\n", 1)
    whole = f"<details><summary>The whole story, as it was printed</summary>\n\n```\n{told}\n```\n\n</details>"
    before, rest = README.read_text().split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}```\n{summary}\n```\n\n{whole}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
