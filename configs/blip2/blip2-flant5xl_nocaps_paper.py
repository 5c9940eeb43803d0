# NoCaps (val) with the captioner tuned on COCO, searched as its captions are by the paper's protocol.
_base_ = [
    "../_base_/models/blip2_flant5xl.py",
    "../_base_/datasets/nocaps.py",
    "../_base_/schedules/finetune_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(type="Blip2Caption", prompt="a photo of", max_txt_len=30, min_length=8, count_lengths="prompt")
