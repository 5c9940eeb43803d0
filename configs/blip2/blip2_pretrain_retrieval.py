# Stage 1 as it was trained, at 224 px, for ranking without fine-tuning.
_base_ = ["blip2_8xb32_retrieval.py"]

model = dict(vision_backbone=dict(img_size=224))

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(224, 224), interpolation="bicubic", backend="pillow"),
    dict(type="CleanCaption", keys="text"),
    dict(type="PackInputs", algorithm_keys=["text", "gt_text_id", "gt_image_id"], meta_keys=["image_id"]),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
