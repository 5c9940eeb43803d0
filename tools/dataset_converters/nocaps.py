#!/usr/bin/env python
"""Write LAVIS's list of pictures from NoCaps's image info or captions; this package reads all of them.

nocaps.py nocaps_val_4500_captions.json data/nocaps/annotations --pictures val
"""

from blip2.cli.converters import converter_parser, run
from blip2.utils.derived_files import nocaps

if __name__ == "__main__":
    parser = converter_parser(__doc__)
    parser.add_argument("source", help="nocaps_…_image_info.json or nocaps_val_4500_captions.json")
    parser.add_argument("--pictures", default="", metavar="FOLDER", help="folder to put before the names of pictures")
    run(parser, lambda args: nocaps(args.source, args.pictures))
