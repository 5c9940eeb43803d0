# TextVQA 0.5.1: pictures in data/textvqa/train_images (those of val, too) and test_images, questions in data/textvqa.
_base_ = ["coco_vqa.py"]

textvqa_dataset = dict(_delete_=True, type="TextVQA", data_root="data/textvqa", data_prefix="train_images")

train_dataloader = dict(
    dataset=dict(ann_file="TextVQA_0.5.1_train.json", pipeline=_base_.train_pipeline, **textvqa_dataset),
)
val_dataloader = dict(
    dataset=dict(ann_file="TextVQA_0.5.1_val.json", pipeline=_base_.test_pipeline, **textvqa_dataset),
)
val_evaluator = dict(official=True)

# The test split's answers are with the EvalAI server. To write the file that it scores, set in test_dataloader.dataset
# data_prefix="test_images" and ann_file="TextVQA_0.5.1_test.json", and
# test_evaluator=dict(type="ReportVQA", file_path="textvqa_test.json").
test_dataloader = val_dataloader
test_evaluator = val_evaluator
