# VizWiz-VQA: pictures in data/vizwiz/{train,val,test}, questions and answers in data/vizwiz/Annotations.
_base_ = ["coco_vqa.py"]

pack = dict(_base_.pack, meta_keys=["question_id", "image_id", "img_path"])
train_pipeline = [*_base_.train_pipeline[:-1], pack]
test_pipeline = [*_base_.test_pipeline[:-1], pack]

vizwiz_dataset = dict(_delete_=True, type="VizWiz", data_root="data/vizwiz")

train_dataloader = dict(
    dataset=dict(
        data_prefix="train",
        ann_file="Annotations/train.json",
        answerable_only=True,
        pipeline=train_pipeline,
        **vizwiz_dataset,
    ),
)
val_dataloader = dict(
    dataset=dict(data_prefix="val", ann_file="Annotations/val.json", pipeline=test_pipeline, **vizwiz_dataset),
)
# The score of the questions that people found unanswerable is official_acc/answer_type/unanswerable.
val_evaluator = dict(official=True)

# The test split's answers are with the EvalAI server. To write the file that it scores, set in test_dataloader.dataset
# data_prefix="test" and ann_file="Annotations/test.json", and
# test_evaluator=dict(type="ReportVQA", file_path="vizwiz_test.json", id_key="image").
test_dataloader = val_dataloader
test_evaluator = val_evaluator
