# Drawn scenes for retrieval: one of a picture's captions to learn from in a step, galleries to search.
_base_ = ["scenes_caption.py"]

test_pipeline = [
    *_base_.test_pipeline[:-1],
    dict(type="PackInputs", algorithm_keys=["text", "gt_text_id", "gt_image_id"], meta_keys=["image_id"]),
]

gallery_dataset = dict(type="COCORetrieval", test_mode=True, pipeline=test_pipeline)
val_dataloader = dict(dataset=dict(ann_file="annotations/retrieval_val.json", **gallery_dataset))
val_evaluator = [dict(type="RetrievalRecall", topk=(1, 5, 10))]
val_cfg = dict(type="RetrievalValLoop")
test_dataloader = dict(dataset=dict(ann_file="annotations/retrieval_test.json", **gallery_dataset))
test_evaluator = val_evaluator
test_cfg = dict(type="RetrievalTestLoop")
