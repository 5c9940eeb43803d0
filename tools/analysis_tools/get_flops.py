"""Parameters and operations of a model's parts; options: python tools/analysis_tools/get_flops.py --help."""

import sys

from blip2.cli.get_flops import main

if __name__ == "__main__":
    sys.exit(main())
