_base_ = [
    "../_base_/models/blip2_opt2.7b.py",
    "../_base_/datasets/flickr30k_caption.py",
    "../_base_/schedules/finetune_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(type="Blip2Caption", prompt="a photo of", max_txt_len=30)
