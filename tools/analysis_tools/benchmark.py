"""Same as `blip2 benchmark`; options: python tools/analysis_tools/benchmark.py --help."""

import sys

from blip2.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main(prog="tools/analysis_tools/benchmark.py"))
