"""Same as `blip2 test`; options: python tools/test.py --help."""

import sys

from blip2.cli.test import main

if __name__ == "__main__":
    sys.exit(main(prog="tools/test.py"))
