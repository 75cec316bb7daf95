"""Where the command `saat` starts."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; a stop while its libraries are still loading ends without a traceback too."""
    try:
        from saat.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("saat: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
