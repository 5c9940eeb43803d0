#!/usr/bin/env python
"""Write LAVIS's list of questions from GQA's own file; this package reads both.

gqa.py questions1.2/testdev_balanced_questions.json data/gqa/annotations
"""

from blip2.cli.converters import converter_parser, run
from blip2.utils.derived_files import gqa

if __name__ == "__main__":
    parser = converter_parser(__doc__)
    parser.add_argument("source", help="GQA's file, out of questions1.2.zip")
    run(parser, lambda args: gqa(args.source))
