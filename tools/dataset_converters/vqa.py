#!/usr/bin/env python
"""Write LAVIS's one file from VQAv2's or OK-VQA's two, for LAVIS: this package reads the two.

vqa.py v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json lavis --split val2014
"""

from blip2.cli.converters import converter_parser, run
from blip2.utils.derived_files import vqa

if __name__ == "__main__":
    parser = converter_parser(__doc__)
    parser.add_argument("question_file", help="the questions as published")
    parser.add_argument("ann_file", help="the answers as published")
    parser.add_argument("--split", choices=("train2014", "val2014"), required=True, help="folder of the pictures")
    run(parser, lambda args: vqa(args.question_file, args.ann_file, args.split))
