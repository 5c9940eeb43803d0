# Stage 1 of BLIP-2's pre-training: contrast, matching and text generation teach the Q-Former what the frozen image
# encoder sees. It starts from the encoder of the published captioner, which was frozen there too, and from BERT.
_base_ = [
    "../_base_/models/blip2_retrieval.py",
    "../_base_/datasets/image_text_pretrain.py",
    "../_base_/schedules/pretrain_stage1_250k.py",
]

model = dict(vision_backbone=dict(img_size=224, frozen_stages=39), max_txt_len=32)

custom_hooks = [
    dict(
        type="LoadParts",
        pretrained=dict(multimodal_backbone="google-bert/bert-base-uncased"),
        parts=dict(
            vision_backbone="https://download.openmmlab.com/mmclassification/v1/blip2/"
            "blip2-opt2.7b_3rdparty_pretrain_20230505-b51db4e1.pth",
        ),
    )
]
