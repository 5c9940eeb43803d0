# The small BLIP-2 that finds drawn scenes by text and texts by drawn scene.
_base_ = ["blip2-tiny_stage1_pretrain.py"]

custom_hooks = []
load_from = "configs/blip2_tiny/blip2-tiny_shapes-retrieval.safetensors"
