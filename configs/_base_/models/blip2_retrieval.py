# EVA ViT-g and a Q-Former that reads texts as well: BLIP-2 without a language model.
model = dict(
    type="Blip2Retrieval",
    tokenizer=dict(type="Blip2Tokenizer", name_or_path="bert-base-uncased"),
    vision_backbone=dict(
        type="BEiTViT",
        # The published encoder has 40 blocks; BLIP-2 was trained on the 39th's output, so that no 40th is built.
        arch=dict(embed_dims=1408, num_layers=39, num_heads=16, feedforward_channels=6144),
        img_size=364,
        patch_size=14,
        out_indices=-1,
        out_type="raw",
        layer_scale_init_value=0.0,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=False,
        final_norm=False,
    ),
    multimodal_backbone=dict(
        type="Qformer",
        model_style="bert-base-uncased",
        vision_model_width=1408,
        add_cross_attention=True,
        cross_attention_freq=2,
        num_query_token=32,
    ),
    vision_neck=dict(type="LinearClsHead", in_channels=768, num_classes=256),
    text_neck=dict(type="LinearClsHead", in_channels=768, num_classes=256),
    multimodal_head=dict(type="ITMHead", hidden_size=768, with_pooler=False),
    max_txt_len=35,
)
