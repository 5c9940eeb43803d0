# Drawn scenes with questions, in VQAv2's form.
_base_ = ["scenes_caption.py"]

learned = ["question", "gt_answer", "gt_answer_weight"]
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type="PackInputs", algorithm_keys=learned, meta_keys=["image_id", "question_id"]),
]
test_pipeline = [
    *_base_.test_pipeline[:-1],
    dict(
        type="PackInputs",
        algorithm_keys=learned,
        meta_keys=["image_id", "question_id", "question_type", "answer_type"],
    ),
]


def questions(split, **more):
    return dict(
        _delete_=True,
        type="COCOVQA",
        data_root="data/scenes",
        data_prefix=f"images/{split}",
        question_file=f"questions/{split}.json",
        ann_file=f"questions/{split}_answers.json",
        **more,
    )


train_dataloader = dict(
    batch_size=48,  # pictures; each is encoded once for its three questions
    dataset=questions("train", sample_per="image", questions_per_sample=3, check_images=False, pipeline=train_pipeline),
)
val_dataloader = dict(dataset=questions("val", pipeline=test_pipeline))
val_evaluator = [dict(type="VQAAcc")]
test_dataloader = dict(dataset=questions("test", pipeline=test_pipeline))
test_evaluator = [dict(type="VQAAcc", official=True)]
