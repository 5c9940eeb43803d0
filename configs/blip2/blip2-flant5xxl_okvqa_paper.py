# As blip2-flant5xl_okvqa_paper.py, with FlanT5-XXL.
_base_ = ["blip2-flant5xl_okvqa_paper.py"]

model = dict(
    tokenizer=dict(name_or_path="google/flan-t5-xxl"),
    vision_neck=dict(num_classes=4096),
    text_backbone=dict(name_or_path="google/flan-t5-xxl"),
)
