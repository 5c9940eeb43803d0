# Drawn scenes with questions, in VQAv2's form.
data_preprocessor = dict(
    type="MultiModalDataPreprocessor",
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)

# No flips and only slight crops: questions ask about left and right.
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
    dict(
        type="PackInputs",
        algorithm_keys=["question", "gt_answer", "gt_answer_weight"],
        meta_keys=["image_id", "question_id"],
    ),
]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(96, 96), interpolation="bicubic", backend="pillow"),
    dict(
        type="PackInputs",
        algorithm_keys=["question", "gt_answer", "gt_answer_weight"],
        meta_keys=["image_id", "question_id", "question_type", "answer_type"],
    ),
]

train_dataloader = dict(
    batch_size=48,  # pictures; each is encoded once for its three questions
    num_workers=2,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="COCOVQA",
        data_root="data/scenes",
        data_prefix="images/train",
        question_file="questions/train.json",
        ann_file="questions/train_answers.json",
        sample_per="image",
        questions_per_sample=3,
        check_images=False,
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="COCOVQA",
        data_root="data/scenes",
        data_prefix="images/val",
        question_file="questions/val.json",
        ann_file="questions/val_answers.json",
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="VQAAcc")
val_cfg = dict()

test_dataloader = dict(
    batch_size=100,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="COCOVQA",
        data_root="data/scenes",
        data_prefix="images/test",
        question_file="questions/test.json",
        ann_file="questions/test_answers.json",
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type="VQAAcc")
test_cfg = dict()
