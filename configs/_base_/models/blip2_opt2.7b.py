# EVA ViT-g, a Q-Former with 32 queries and OPT-2.7B, all but the task: a leaf adds `type`, `prompt` and `max_txt_len`.
model = dict(
    tokenizer=dict(type="AutoTokenizer", name_or_path="facebook/opt-2.7b", use_fast=False),
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
        frozen_stages=39,
    ),
    multimodal_backbone=dict(
        type="Qformer",
        model_style="bert-base-uncased",
        vision_model_width=1408,
        add_cross_attention=True,
        cross_attention_freq=2,
        num_query_token=32,
    ),
    vision_neck=dict(type="LinearClsHead", in_channels=768, num_classes=2560),
    text_backbone=dict(type="OPTForCausalLM", name_or_path="facebook/opt-2.7b"),
)
