# As blip2_flant5xl.py, with CLIP's ViT-L/14 as the image encoder (23 of its 24 blocks).
_base_ = "blip2_flant5xl.py"

model = dict(
    vision_backbone=dict(_delete_=True, type="CLIPViT", img_size=224, frozen_stages=23),
    multimodal_backbone=dict(vision_model_width=1024),
)
