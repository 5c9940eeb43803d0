# As coco_okvqa.py, with questions cleaned as LAVIS cleans them: the question mark stays.
_base_ = "coco_okvqa.py"

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(224, 224), interpolation="bicubic", backend="pillow"),
    dict(type="CleanCaption", keys=["question"], remove_chars='.!"()*#:;~'),
    {{_base_.pack}},
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
