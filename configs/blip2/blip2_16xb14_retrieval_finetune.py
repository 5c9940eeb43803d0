# Fine-tuning on COCO for retrieval, the image encoder included, with stage 1's three losses (paper, section 4.4): 224
# pictures a step, 364 px.
_base_ = [
    "../_base_/models/blip2_retrieval.py",
    "../_base_/datasets/coco_retrieval.py",
    "../_base_/schedules/finetune_vision_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(vision_backbone=dict(with_cp=True), multimodal_backbone=dict(with_cp=True), topk=128)

# Without RandAugment, as in LAVIS.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="RandomResizedCrop",
        scale=364,
        crop_ratio_range=(0.5, 1.0),
        interpolation="bicubic",
        backend="pillow",
    ),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="CleanCaption", keys="text"),
    dict(type="PackInputs", algorithm_keys=["text"], meta_keys=["image_id"]),
]

train_dataloader = dict(batch_size=14, dataset=dict(pipeline=train_pipeline))
val_cfg = dict(type="RetrievalValLoop")
test_cfg = dict(type="RetrievalTestLoop")

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.95))
default_hooks = dict(checkpoint=dict(save_best="mean/retrieval/mean_recall"))
auto_scale_lr = dict(enable=False, base_batch_size=224)

load_from = "work_dirs/blip2_pretrain-stage1_16xb105"
