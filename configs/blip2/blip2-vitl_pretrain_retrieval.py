# As blip2_pretrain_retrieval.py, with CLIP's ViT-L/14 as the image encoder.
_base_ = ["blip2_pretrain_retrieval.py"]

model = dict(
    vision_backbone=dict(_delete_=True, type="CLIPViT", img_size=224),
    multimodal_backbone=dict(vision_model_width=1024),
)
