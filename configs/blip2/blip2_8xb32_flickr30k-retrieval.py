# The paper's zero-shot scores are of the model that was fine-tuned on COCO (section 4.4).
_base_ = [
    "../_base_/models/blip2_retrieval.py",
    "../_base_/datasets/flickr30k_retrieval.py",
    "../_base_/schedules/finetune_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(topk=128)

val_cfg = dict(type="RetrievalValLoop")
test_cfg = dict(type="RetrievalTestLoop")
