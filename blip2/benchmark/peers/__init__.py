"""Other implementations of BLIP-2, each driven by a file that runs in an interpreter which has that implementation.

Nothing here may import ``blip2``: that interpreter need not have it. See `serve` for what such a file offers.
"""
