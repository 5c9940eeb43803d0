# Drawn scenes for retrieval: pictures with one of their captions to learn from, galleries to search.
data_preprocessor = dict(
    type="MultiModalDataPreprocessor",
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)

# No flips and only slight crops: captions speak of left and right, and of places in the picture.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="RandomResizedCrop",
        scale=96,
        crop_ratio_range=(0.9, 1.0),
        aspect_ratio_range=(0.97, 1.03),
        interpolation="bilinear",
        backend="pillow",
    ),
    dict(type="PackInputs", algorithm_keys=["gt_caption"], meta_keys=["image_id"]),
]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(96, 96), interpolation="bicubic", backend="pillow"),
    dict(type="PackInputs", algorithm_keys=["text", "gt_text_id", "gt_image_id"], meta_keys=["image_id"]),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    drop_last=True,
    collate_fn=dict(type="default_collate"),  # stacked in the worker: one tensor to hand over instead of 128
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="COCOCaption",  # a picture comes up once an epoch, with its five captions, of which one is drawn
        data_root="data/scenes",
        ann_file="annotations/train.json",
        check_images=False,
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="COCORetrieval",
        data_root="data/scenes",
        ann_file="annotations/retrieval_val.json",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="RetrievalRecall", topk=(1, 5, 10))
val_cfg = dict(type="RetrievalValLoop")

test_dataloader = dict(
    batch_size=100,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="COCORetrieval",
        data_root="data/scenes",
        ann_file="annotations/retrieval_test.json",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type="RetrievalRecall", topk=(1, 5, 10))
test_cfg = dict(type="RetrievalTestLoop")
