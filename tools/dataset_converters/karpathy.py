#!/usr/bin/env python
"""Write LAVIS's and mmpretrain's files of captions from Karpathy's dataset_coco.json or dataset_flickr30k.json.

karpathy.py dataset_coco.json data/coco/annotations
karpathy.py dataset_flickr30k.json data/flickr30k/annotations
"""

from blip2.cli.converters import converter_parser, run
from blip2.utils.derived_files import karpathy

if __name__ == "__main__":
    parser = converter_parser(__doc__)
    parser.add_argument("source", help="Karpathy's file, out of caption_datasets.zip")
    run(parser, lambda args: karpathy(args.source))
