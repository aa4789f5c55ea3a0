"""Node and the npm packages of tests/js, installed once, outside the repository; or the reason why there are none."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "js"
INSTALL_S = 240.0
OLDEST = 20


class NoJavascript(Exception):
    """There is no Node here that could run it; the message says why."""


def command() -> list[str]:
    """What runs a script of ``workplace()``: Node, with what an old one lacks."""
    node = shutil.which("node")
    if node is None:
        raise NoJavascript("no node on this machine")
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(said.lstrip("v").partition(".")[0]) < OLDEST:
        raise NoJavascript(f"node {said} is older than {OLDEST}")
    return [node, "--import", "./polyfill.mjs"]


def workplace() -> Path:
    """A folder with our scripts and their packages, as the lock names them. Raises NoJavascript."""
    npm = shutil.which("npm")
    if npm is None:
        raise NoJavascript("no npm on this machine")
    name = sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = cache / "pasar-tests" / f"js-{name}"
    if not (kept / "node_modules").is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="js-", dir=kept.parent))
        try:
            _install(npm, fresh)
            fresh.rename(kept)
        except OSError:  # somebody else was faster
            if not (kept / "node_modules").is_dir():
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    for source in SOURCES.glob("*.mjs"):
        shutil.copy(source, kept)
    return kept


def _install(npm: str, folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCES / name, folder)
    try:
        subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=INSTALL_S,
        )
    except subprocess.CalledProcessError as exc:
        raise NoJavascript(f"npm could not install the packages: {exc.stderr[-300:]}") from exc
    except subprocess.TimeoutExpired as exc:
        raise NoJavascript(f"npm did not install the packages in {INSTALL_S:.0f} s") from exc
