# OK-VQA: pictures of COCO in data/coco/{train,val}2014; questions and answers in data/coco/annotations as published,
# but with 'okvqa_' before their names, which are those of VQA v1 otherwise.
_base_ = ["coco_vqa.py"]

train_dataloader = dict(
    dataset=dict(
        question_file="annotations/okvqa_OpenEnded_mscoco_train2014_questions.json",
        ann_file="annotations/okvqa_mscoco_train2014_annotations.json",
    ),
)
val_dataloader = dict(
    dataset=dict(
        question_file="annotations/okvqa_OpenEnded_mscoco_val2014_questions.json",
        ann_file="annotations/okvqa_mscoco_val2014_annotations.json",
    ),
)
# Answers are compared by their lemmas, as the paper's are; docs/datasets.md tells which program is taken.
val_evaluator = dict(official=True, lemmatizer="auto")
test_dataloader = val_dataloader
test_evaluator = val_evaluator
