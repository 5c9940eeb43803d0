# The parts of the small BLIP-2, about two million parameters each.
tokenizer = dict(type="AutoTokenizer", name_or_path="configs/blip2_tiny/tokenizer")

vision_backbone = dict(
    type="BEiTViT",
    arch=dict(embed_dims=192, num_layers=5, num_heads=6, feedforward_channels=768),
    img_size=96,
    patch_size=12,
    out_indices=-1,
    layer_scale_init_value=0.0,
    use_abs_pos_emb=True,
    use_rel_pos_bias=False,
    use_shared_rel_pos_bias=False,
    final_norm=False,
    out_type="raw",
)

qformer_tokenizer = dict(type="Blip2Tokenizer", name_or_path="configs/blip2_tiny/qformer_tokenizer")

text_backbone = dict(
    type="OPTForCausalLM",
    vocab_size=528,
    hidden_size=192,
    num_hidden_layers=4,
    num_attention_heads=6,
    ffn_dim=640,
    max_position_embeddings=128,
    dropout=0.0,
)

multimodal_backbone = dict(
    type="Qformer",
    model_style="bert-base-uncased",
    hidden_size=192,
    num_hidden_layers=4,
    num_attention_heads=6,
    intermediate_size=512,
    vocab_size=99,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.06,  # BERT's 0.02 suits a width of 768; text generation learns more slowly from it
    vision_model_width=192,
    add_cross_attention=True,
    cross_attention_freq=2,
    num_query_token=16,
)

vision_neck = dict(type="LinearClsHead", in_channels=192, num_classes=192)
