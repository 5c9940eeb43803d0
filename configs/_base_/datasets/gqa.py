# GQA: pictures in data/gqa/images; the balanced questions in data/gqa/annotations, in LAVIS's form or GQA's own.
# Mean and standard deviation are CLIP's, times 255, in RGB order.
data_preprocessor = dict(
    type="MultiModalDataPreprocessor",
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)

pack = dict(type="PackInputs", algorithm_keys=["question", "gt_answer"], meta_keys=["question_id", "image_id"])

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=224, interpolation="bicubic", backend="pillow"),
    dict(type="CleanCaption", keys=["question"]),
    pack,
]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(224, 224), interpolation="bicubic", backend="pillow"),
    dict(type="CleanCaption", keys=["question"]),
    pack,
]

train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="GQA",
        data_root="data/gqa",
        data_prefix="images",
        ann_file="annotations/train_balanced_questions.json",
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="GQA",
        data_root="data/gqa",
        data_prefix="images",
        ann_file="annotations/testdev_balanced_questions.json",
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="GQAAcc")

test_dataloader = val_dataloader
test_evaluator = val_evaluator
