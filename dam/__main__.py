"""``python -m dam`` is the ``dam`` command."""

import sys

from dam.cli import main

if __name__ == "__main__":
    sys.exit(main())
