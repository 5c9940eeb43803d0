# As coco_caption.py, but tested on Karpathy's test split, which the paper and LAVIS report.
_base_ = "coco_caption.py"

test_dataloader = dict(dataset=dict(ann_file="annotations/coco_karpathy_test.json"))
test_evaluator = dict(ann_file="data/coco/annotations/coco_karpathy_test_gt.json")
