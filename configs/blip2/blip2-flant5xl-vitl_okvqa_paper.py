# As blip2-flant5xl_okvqa_paper.py, with CLIP's ViT-L/14 as the image encoder.
_base_ = ["blip2-flant5xl_okvqa_paper.py"]

model = dict(
    vision_backbone=dict(_delete_=True, type="CLIPViT", img_size=224, frozen_stages=23),
    multimodal_backbone=dict(vision_model_width=1024),
)
