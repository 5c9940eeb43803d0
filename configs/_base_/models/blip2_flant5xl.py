# EVA ViT-g, a Q-Former with 32 queries and FlanT5-XL, all but the task. Texts end with T5's own end token.
_base_ = "blip2_opt2.7b.py"

model = dict(
    tokenizer=dict(name_or_path="google/flan-t5-xl"),
    vision_neck=dict(num_classes=2048),
    text_backbone=dict(_delete_=True, type="T5ForConditionalGeneration", name_or_path="google/flan-t5-xl"),
)
