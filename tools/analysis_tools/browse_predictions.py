"""Same as `blip2 browse`; options: python tools/analysis_tools/browse_predictions.py --help."""

import sys

from blip2.cli.browse import main

if __name__ == "__main__":
    sys.exit(main(prog="tools/analysis_tools/browse_predictions.py"))
