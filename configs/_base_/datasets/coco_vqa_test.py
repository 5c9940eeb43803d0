# VQAv2 without answers: `blip2 test` writes the answers to test2015, from which the EvalAI server scores both test-dev
# and test-std. Pictures in data/coco/test2015.
_base_ = ["coco_vqa.py"]

test_dataloader = dict(
    dataset=dict(
        data_prefix="test2015",
        # For test-dev alone, a quarter of the questions: v2_OpenEnded_mscoco_test-dev2015_questions.json.
        question_file="annotations/v2_OpenEnded_mscoco_test2015_questions.json",
        ann_file="",
    ),
)
test_evaluator = dict(
    _delete_=True,
    type="ReportVQA",
    file_path="work_dirs/vqa/vqa_test.json",
    question_file="data/coco/annotations/v2_OpenEnded_mscoco_test2015_questions.json",
)
