# COCO for retrieval in Karpathy's split: pictures below data/coco/{train,val}2014, annotations in data/coco/annotations
# (from https://download.openmmlab.com/mmclassification/datasets/coco_retrieval/).
# Mean and standard deviation are CLIP's, times 255, in RGB order.
data_preprocessor = dict(
    type="MultiModalDataPreprocessor",
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)

# Level 5 of 10. Of brightness and sharpness nothing is changed; that they take their turns makes the others rarer.
rand_increasing_policies = [
    dict(type="AutoContrast"),
    dict(type="Equalize"),
    dict(type="Rotate", magnitude_range=(0, 30)),
    dict(type="Brightness", magnitude_range=(0, 0.0)),
    dict(type="Sharpness", magnitude_range=(0, 0.0)),
    dict(type="Shear", magnitude_range=(0, 0.3), direction="horizontal"),
    dict(type="Shear", magnitude_range=(0, 0.3), direction="vertical"),
]

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
    dict(type="RandAugment", policies=rand_increasing_policies, num_policies=2, magnitude_level=5),
    dict(type="CleanCaption", keys="text"),
    dict(type="PackInputs", algorithm_keys=["text", "is_matched"], meta_keys=["image_id"]),
]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(364, 364), interpolation="bicubic", backend="pillow"),
    dict(type="CleanCaption", keys="text"),
    dict(type="PackInputs", algorithm_keys=["text", "gt_text_id", "gt_image_id"], meta_keys=["image_id"]),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="COCORetrieval",
        data_root="data/coco",
        ann_file="annotations/caption_karpathy_train2014.json",
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="COCORetrieval",
        data_root="data/coco",
        ann_file="annotations/caption_karpathy_val2014.json",
        test_mode=True,  # a picture with all its texts, in the place of pairs
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="RetrievalRecall", topk=(1, 5, 10))

# The published scores are of the test split, of 5,000 pictures and 25,010 texts. (mmpretrain's config takes val again.)
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="COCORetrieval",
        data_root="data/coco",
        ann_file="annotations/caption_karpathy_test2014.json",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = val_evaluator
