# Fine-tuning on COCO captions, the image encoder included (paper, section 4.2): 256 pictures a step, 364 px. For
# OPT-6.7B the paper lets the learning rate fall by 0.95 from block to block, for OPT-2.7B not at all.
_base_ = [
    "../_base_/models/blip2_opt2.7b.py",
    "../_base_/datasets/coco_caption.py",
    "../_base_/schedules/finetune_vision_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(
    type="Blip2Caption",
    vision_backbone=dict(frozen_stages=-1, with_cp=True),
    text_backbone=dict(with_cp=True),
    prompt="a photo of",
    max_txt_len=30,
    min_length=8,
)

train_dataloader = dict(batch_size=16)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.0))
default_hooks = dict(checkpoint=dict(save_best="CIDEr"))
auto_scale_lr = dict(enable=False, base_batch_size=256)

# The end of stage 2. Your own: --cfg-options load_from=work_dirs/blip2-opt2.7b_pretrain-stage2_16xb120
load_from = (
    "https://download.openmmlab.com/mmclassification/v1/blip2/blip2-opt2.7b_3rdparty_pretrain_20230505-b51db4e1.pth"
)
