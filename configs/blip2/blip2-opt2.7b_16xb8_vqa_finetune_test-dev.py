# The paper's data for VQAv2: train2014, val2014 and Visual Genome's questions. No split is left to choose a checkpoint
# by; `blip2 test` writes the answers to test2015 for the EvalAI server, which scores test-dev and test-std.
_base_ = ["blip2-opt2.7b_16xb8_vqa_finetune.py"]

train_dataset = _base_.train_dataloader.dataset
val_dataset = dict(
    train_dataset,
    data_prefix="val2014",
    question_file="annotations/v2_OpenEnded_mscoco_val2014_questions.json",
    ann_file="annotations/v2_mscoco_val2014_annotations.json",
)
# Visual Genome's in LAVIS's form (vg_qa.json), which is that of its GQA: picture file, question, one answer.
visual_genome_dataset = dict(
    type="GQA",
    data_root="data/visual_genome",
    ann_file="annotations/vg_qa.json",
    pipeline=train_dataset.pipeline,
)
train_dataloader = dict(
    dataset=dict(_delete_=True, type="ConcatDataset", datasets=[train_dataset, val_dataset, visual_genome_dataset])
)

val_dataloader = None
val_evaluator = None
val_cfg = None
default_hooks = dict(checkpoint=dict(save_best=None))

test_dataloader = dict(
    dataset=dict(
        data_prefix="test2015",
        question_file="annotations/v2_OpenEnded_mscoco_test2015_questions.json",
        ann_file="",
    )
)
test_evaluator = dict(_delete_=True, type="ReportVQA", file_path="vqa_test.json")
