_base_ = [
    "../_base_/models/blip2_retrieval.py",
    "../_base_/datasets/coco_retrieval.py",
    "../_base_/schedules/finetune_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(topk=128)

val_cfg = dict(type="RetrievalValLoop")
test_cfg = dict(type="RetrievalTestLoop")
