"""The web demo, ``blip2 demo``: a page on which the models are tried out.

`service` does the work and knows nothing of the page; `page` is the page (Gradio); `serve` puts it on an address.
"""
