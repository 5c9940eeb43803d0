# COCO captions with what LAVIS's present captioning task sets where its configs say nothing.
_base_ = ["blip2-opt2.7b_caption_paper.py"]

model = dict(length_penalty=0.0, repetition_penalty=1.15, count_lengths="start")
