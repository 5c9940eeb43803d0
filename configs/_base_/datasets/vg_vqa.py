# Visual Genome's questions: pictures in data/visual_genome/VG_100K and VG_100K_2, questions in
# data/visual_genome/annotations. They come in one file without splits; VQAv2 stays what is validated on.
_base_ = ["coco_vqa.py"]

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="VisualGenomeQA",
        data_root="data/visual_genome",
        data_prefix="",
        ann_file="annotations/question_answers.json",
        pipeline=_base_.train_pipeline,
    ),
)
