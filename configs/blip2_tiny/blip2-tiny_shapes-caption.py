# The small BLIP-2 that captions drawn scenes. To train with this config, or one that inherits it, is to fine-tune the
# shipped weights; docs/tiny_model.md tells how they came about.
_base_ = [
    "../_base_/models/blip2_tiny.py",
    "../_base_/datasets/scenes_caption.py",
    "../_base_/schedules/scenes_pretrain.py",
]

vision_backbone = _base_.vision_backbone
vision_backbone.frozen_stages = 5

# Its language model is older than that of the other small models, with a vocabulary of its own.
text_backbone = _base_.text_backbone
text_backbone.vocab_size = 480

model = dict(
    type="Blip2Caption",
    tokenizer=dict(type="AutoTokenizer", name_or_path="configs/blip2_tiny/tokenizer_captions"),
    vision_backbone=vision_backbone,
    text_backbone=text_backbone,
    multimodal_backbone={{_base_.multimodal_backbone}},
    vision_neck={{_base_.vision_neck}},
    prompt="there is",
    max_txt_len=32,
    length_penalty=0.0,  # the likeliest caption; the mean over its tokens would favour long ones with easy words
    repetition_penalty=1.5,  # else it names an object twice in place of another one of its colour
    captions_per_picture=2,
)

load_from = "configs/blip2_tiny/blip2-tiny_shapes-caption.safetensors"
