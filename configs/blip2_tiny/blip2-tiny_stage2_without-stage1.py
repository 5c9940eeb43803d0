# For comparison: stage 2 with a Q-Former that starts from nothing. docs/tiny_model.md has what came of it.
_base_ = ["blip2-tiny_stage2_pretrain.py"]

custom_hooks = [
    dict(
        type="LoadParts",
        parts=dict(
            vision_backbone="work_dirs/blip2-tiny_vision_pretrain",
            text_backbone="work_dirs/blip2-tiny_language_counts",
        ),
    )
]
