# COCO captions by the paper's protocol: test split, 364 px, 5 beams, 8 to 30 tokens.
_base_ = [
    "../_base_/models/blip2_flant5xl.py",
    "../_base_/datasets/coco_caption_test.py",
    "../_base_/schedules/finetune_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(type="Blip2Caption", prompt="a photo of", max_txt_len=30, min_length=8, count_lengths="prompt")
