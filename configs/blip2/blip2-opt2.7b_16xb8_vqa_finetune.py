# Fine-tuning on VQAv2, the image encoder included, with the question given to the Q-Former as well (paper, section
# 4.3): 128 questions a step, 490 px. Trains on train2014 and evaluates on val2014; the paper's own mixture, for the
# test server, is blip2-opt2.7b_16xb8_vqa_finetune_test-dev.py.
_base_ = [
    "../_base_/models/blip2_opt2.7b.py",
    "../_base_/datasets/coco_vqa.py",
    "../_base_/schedules/finetune_vision_5e.py",
    "../_base_/default_runtime.py",
]

model = dict(
    type="Blip2VQA",
    vision_backbone=dict(img_size=490, frozen_stages=-1, with_cp=True),
    multimodal_backbone=dict(with_cp=True),
    text_backbone=dict(with_cp=True),
    prompt="Question: {} Answer:",
    max_txt_len=10,
    question_in_qformer=True,
    qformer_tokenizer=dict(type="Blip2Tokenizer", name_or_path="bert-base-uncased"),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="RandomResizedCrop",
        scale=490,
        crop_ratio_range=(0.5, 1.0),
        interpolation="bicubic",
        backend="pillow",
    ),
    dict(type="CleanCaption", keys=["question"], remove_chars='.!"()*#:;~'),  # the question mark stays, as in LAVIS
    {{_base_.pack}},
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(490, 490), interpolation="bicubic", backend="pillow"),
    dict(type="CleanCaption", keys=["question"], remove_chars='.!"()*#:;~'),  # the question mark stays, as in LAVIS
    {{_base_.pack}},
]

train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.95))
default_hooks = dict(checkpoint=dict(save_best="VQA/acc"))
auto_scale_lr = dict(enable=False, base_batch_size=128)

# Stage 2, and the Q-Former's text branch, which it does not have, from stage 1.
custom_hooks = [
    dict(
        type="LoadParts",
        pretrained=dict(text_backbone="facebook/opt-2.7b"),
        parts=dict(
            vision_backbone="work_dirs/blip2-opt2.7b_pretrain-stage2_16xb120",
            ln_vision_backbone="work_dirs/blip2-opt2.7b_pretrain-stage2_16xb120",
            query_tokens="work_dirs/blip2-opt2.7b_pretrain-stage2_16xb120",
            multimodal_backbone=[
                "work_dirs/blip2_pretrain-stage1_16xb105",
                "work_dirs/blip2-opt2.7b_pretrain-stage2_16xb120",
            ],
            vision_neck="work_dirs/blip2-opt2.7b_pretrain-stage2_16xb120",
        ),
        allow_unused=["multimodal_backbone"],  # stage 1's head
    )
]
