# COCO captions in Karpathy's split: pictures below data/coco/{train,val}2014, annotations in data/coco/annotations.
# Mean and standard deviation are CLIP's, times 255, in RGB order.
data_preprocessor = dict(
    type="MultiModalDataPreprocessor",
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="RandomResizedCrop",
        scale=364,
        crop_ratio_range=(0.5, 1.0),
        interpolation="bicubic",
        backend="pillow",
    ),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="CleanCaption", keys="gt_caption"),
    dict(type="PackInputs", algorithm_keys=["gt_caption"], meta_keys=["image_id"]),
]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(364, 364), interpolation="bicubic", backend="pillow"),
    dict(type="PackInputs", meta_keys=["image_id"]),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="COCOCaption",
        data_root="data/coco",
        ann_file="annotations/coco_karpathy_train.json",
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="COCOCaption",
        data_root="data/coco",
        ann_file="annotations/coco_karpathy_val.json",
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="COCOCaption", ann_file="data/coco/annotations/coco_karpathy_val_gt.json")

# OpenMMLab's published scores are of the validation split. For the test split put coco_karpathy_test.json and
# coco_karpathy_test_gt.json in test_dataloader and test_evaluator.
test_dataloader = val_dataloader
test_evaluator = val_evaluator
