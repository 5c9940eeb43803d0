# As blip2-opt2.7b_okvqa_paper.py, with OPT-6.7B.
_base_ = ["blip2-opt2.7b_okvqa_paper.py"]

model = dict(
    tokenizer=dict(name_or_path="facebook/opt-6.7b"),
    vision_neck=dict(num_classes=4096),
    text_backbone=dict(name_or_path="facebook/opt-6.7b"),
)
