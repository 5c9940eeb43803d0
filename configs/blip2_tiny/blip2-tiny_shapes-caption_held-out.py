# Scored on pictures with pairs of colour and shape that no training picture holds.
_base_ = ["blip2-tiny_shapes-caption.py"]

test_dataloader = dict(dataset=dict(ann_file="annotations/held_out.json"))
test_evaluator = [
    dict(type="SceneCaptionAccuracy", scene_file="data/scenes/scenes/held_out.json"),
    dict(type="COCOCaption", ann_file="data/scenes/annotations/held_out_gt.json"),
]
