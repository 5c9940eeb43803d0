# VQAv2: pictures in data/coco/{train,val}2014, questions and answers in data/coco/annotations as published.
# Mean and standard deviation are CLIP's, times 255, in RGB order.
data_preprocessor = dict(
    type="MultiModalDataPreprocessor",
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    to_rgb=True,
)

# The types of question and answer are there for the scores by type.
pack = dict(
    type="PackInputs",
    algorithm_keys=["question", "gt_answer", "gt_answer_weight", "question_type", "answer_type"],
    meta_keys=["question_id", "image_id"],
)

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
        type="COCOVQA",
        data_root="data/coco",
        data_prefix="train2014",
        question_file="annotations/v2_OpenEnded_mscoco_train2014_questions.json",
        ann_file="annotations/v2_mscoco_train2014_annotations.json",
        pipeline=train_pipeline,
    ),
)

val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="COCOVQA",
        data_root="data/coco",
        data_prefix="val2014",
        question_file="annotations/v2_OpenEnded_mscoco_val2014_questions.json",
        ann_file="annotations/v2_mscoco_val2014_annotations.json",
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="VQAAcc")

# The answers of test2015 are with the EvalAI server. To write the file that it scores, set in test_dataloader.dataset
# data_prefix="test2015", question_file="annotations/v2_OpenEnded_mscoco_test2015_questions.json" and ann_file="", and
# test_evaluator=dict(type="ReportVQA", file_path="vqa_test.json").
test_dataloader = val_dataloader
test_evaluator = val_evaluator
