# Stage 2 of BLIP-2's pre-training: the Q-Former learns to make the frozen OPT say what the frozen image encoder sees.
_base_ = [
    "../_base_/models/blip2_opt2.7b.py",
    "../_base_/datasets/image_text_pretrain.py",
    "../_base_/schedules/pretrain_stage2_80k.py",
]

model = dict(
    type="Blip2Caption",
    vision_backbone=dict(img_size=224),
    prompt="",  # the captions to learn are whole sentences
    max_txt_len=32,
)

train_dataloader = dict(batch_size=120)

custom_hooks = [
    dict(
        type="LoadParts",
        pretrained=dict(text_backbone="facebook/opt-2.7b"),
        parts=dict(
            vision_backbone="work_dirs/blip2_pretrain-stage1_16xb105",
            ln_vision_backbone="work_dirs/blip2_pretrain-stage1_16xb105",
            query_tokens="work_dirs/blip2_pretrain-stage1_16xb105",
            multimodal_backbone="work_dirs/blip2_pretrain-stage1_16xb105",
        ),
        allow_unused=["multimodal_backbone"],  # the text branch and its head
    )
]
