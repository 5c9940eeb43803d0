# The small BLIP-2 that answers questions about drawn scenes. The question goes to the language model and, as in the
# paper's fine-tuning (section 4.3), to the Q-Former.
_base_ = [
    "../_base_/models/blip2_tiny.py",
    "../_base_/datasets/scenes_vqa.py",
    "../_base_/schedules/scenes_pretrain.py",
]

vision_backbone = _base_.vision_backbone
vision_backbone.frozen_stages = 5

model = dict(
    type="Blip2VQA",
    tokenizer={{_base_.tokenizer}},
    qformer_tokenizer={{_base_.qformer_tokenizer}},
    vision_backbone=vision_backbone,
    text_backbone={{_base_.text_backbone}},
    multimodal_backbone={{_base_.multimodal_backbone}},
    vision_neck={{_base_.vision_neck}},
    question_in_qformer=True,
    prompt="Question: {} Answer:",
    max_txt_len=10,
    length_penalty=-1.0,
)

default_hooks = dict(checkpoint=dict(save_best="VQA/acc", rule="greater"))
load_from = "configs/blip2_tiny/blip2-tiny_shapes-vqa.safetensors"
