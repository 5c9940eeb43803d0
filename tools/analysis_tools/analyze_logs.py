"""Curves and times of trainings; options: python tools/analysis_tools/analyze_logs.py --help."""

import sys

from blip2.cli.analyze_logs import main

if __name__ == "__main__":
    sys.exit(main())
