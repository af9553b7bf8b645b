"""``python -m pyro_vae``, which is ``pyro-vae``."""

from __future__ import annotations

import sys

from pyro_vae.cli import main

if __name__ == "__main__":
    sys.exit(main())
