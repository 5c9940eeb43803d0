"""Same as `blip2 train`; options: python tools/train.py --help."""

import sys

from blip2.cli.train import main

if __name__ == "__main__":
    sys.exit(main(prog="tools/train.py"))
