"""How to call this program here, for the hints that name a command."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path
from typing import Final

NAME: Final = "securechat"


@functools.cache
def program() -> str:
    """Return what a person types for `securechat`: the name where it is in PATH, else the path of the one that runs now.

    `.venv/bin/securechat` in the folder of the source tree, the whole path elsewhere.
    """
    script = Path(sys.executable).parent / NAME  # Not resolved: an interpreter of a virtual environment is a link.
    found = shutil.which(NAME)
    if not script.exists() or (found and Path(found).resolve() == script.resolve()):
        return NAME
    here = os.path.relpath(script)
    return str(script) if here.startswith(os.pardir) else here
