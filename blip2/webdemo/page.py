"""The page of the demo: a tab for each thing that the models can do. Needs Gradio (the extra ``demo``)."""

import html
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from blip2.datasets.transforms.loading import read_image
from blip2.utils.errors import InputWarning
from blip2.utils.pictures import PICTURE_SUFFIXES, find_pictures
from blip2.utils.resources import resources_root

from .jobs import Cancelled
from .limits import RefusedError
from .markup import note, table
from .service import SMALL_MODELS, Service

SMALL_NOTE = (
    "The small models know drawn scenes only: a few coloured shapes. For photographs start the demo with --model and "
    "a published model."
)
DIALOGUE_NOTE = "With the box ticked, the model reads the earlier questions and its answers before the new question."
SMALL_DIALOGUE_NOTE = " The small model was not trained on dialogues and answers better without."
UPLOADS = "Uploads"
DEMO_TEXTS = "a purple ring on the left of a red square\na red square\na blue star above a heart"
SAMPLE_QUESTIONS = ("how many shapes are there?", "what color is the ring?", "is there a red square?")


def build_page(service: Service) -> gr.Blocks:
    """The page over `service`, with the tabs that its models allow."""
    with gr.Blocks(title="BLIP-2", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        small = note(SMALL_NOTE) if set(service.models.values()) & set(SMALL_MODELS) else ""
        gr.HTML("<h1>BLIP-2</h1>" + note("Models: " + ", ".join(service.models.values())) + small)
        with gr.Tabs():
            for title, task, build in _TABS:
                if task in service.models or (task is None and service.models):
                    with gr.Tab(title):
                        build(service)
    page.queue(max_size=service.limits.queue, default_concurrency_limit=1)
    return page


# ----- what the tabs share -----


def _shown(handler: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """`handler` whose errors become a message on the page; what nobody foresaw is logged with its trace, not shown.

    Work that was cancelled leaves its `outputs` as they are.
    """

    @wraps(handler)
    def run(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", InputWarning)
            try:
                result = handler(*args, **kwargs)
            except Cancelled:
                gr.Info("Stopped.")
                result = gr.skip() if outputs == 1 else [gr.skip()] * outputs
            except torch.OutOfMemoryError:
                raise _message("The model needs more memory than there is. Try --precision bf16.") from None
            except (RefusedError, ValueError, OSError) as error:
                raise _message(str(error)) from None
            except Exception:
                traceback.print_exc()
                raise _message("Something went wrong. The terminal that the demo runs in says what.") from None
        for warning in told:
            if issubclass(warning.category, InputWarning):
                gr.Warning(html.escape(str(warning.message)))
        return result

    return run


def _message(text: str) -> gr.Error:
    return gr.Error(html.escape(text), print_exception=False)


def _on_model(trigger: Any, handler: Callable[..., Any], inputs: list[Any], outputs: list[Any], name: str) -> Any:
    """Runs `handler` at a click: one at a time of all tabs and visitors, the others wait in the queue."""
    return trigger(
        _shown(handler, len(outputs)), inputs, outputs, api_name=name, concurrency_id="models", concurrency_limit=1
    )


def _buttons(service: Service, label: str) -> gr.Button:
    """The button that starts a tab's work, beside one that stops it."""

    def cancel(request: gr.Request) -> None:
        service.jobs.cancel(_visitor(request))

    with gr.Row():
        start = gr.Button(label, variant="primary", scale=3, min_width=100)
        stop = gr.Button("Stop", scale=1, min_width=60)
    stop.click(cancel, queue=False, api_visibility="private")
    return start


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def _picture() -> gr.Image:
    """An upload of one picture. Its file is handed on as it came: our own code looks at it, and says what is wrong."""
    picture = gr.Image(label="Picture", type="filepath", sources=["upload", "clipboard"], height=320)
    # Not a subclass: Gradio would write a stub file beside this one.
    picture.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return picture


def _examples(picture: gr.Image) -> None:
    """The pictures that come with the package, to click on."""
    pictures = find_pictures(resources_root() / "demo")
    gr.Examples([[str(path)] for path in pictures], [picture], api_visibility="private")


def _texts(service: Service, label: str) -> gr.Textbox:
    """A field for texts, one a line; filled for the small model, which would make nothing of most others."""
    value = DEMO_TEXTS if service.models["retrieval"] in SMALL_MODELS else ""
    return gr.Textbox(value, label=label, lines=5, info="One a line")


# ----- the tabs -----


def _caption_tab(service: Service) -> None:
    with gr.Row():
        with gr.Column():
            picture = _picture()
            prompt = gr.Textbox(service.prompt(), label="Prompt", info="The caption goes on from it; may be empty")
            start = _buttons(service, "Caption")
            with gr.Accordion("Options", open=False):
                beams = gr.Slider(1, 10, 5, step=1, label="Beams")
                length = gr.Slider(1, 60, 30, step=1, label="Length", info="Tokens at most")
                count = gr.Slider(1, 10, 1, step=1, label="Captions", info="At most as many as beams, unless sampled")
                sample = gr.Checkbox(False, label="Nucleus sampling", info="Draws the words instead of searching")
                top_p = gr.Slider(0.05, 1.0, 0.9, step=0.05, label="Nucleus (top p)")
                temperature = gr.Slider(0.1, 2.0, 1.0, step=0.1, label="Temperature")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        result = gr.HTML(min_height=200, container=True)

    def caption(path, prompt, beams, length, count, sample, top_p, temperature, seed, request: gr.Request):  # type: ignore[no-untyped-def]
        options = dict(num_beams=int(beams), max_txt_len=int(length), num_captions=int(count))
        if sample:
            options |= dict(do_sample=True, top_p=top_p, temperature=temperature, seed=int(seed or 0))
        return table(service.caption(_visitor(request), path, prompt or "", **options), "caption")

    inputs = [picture, prompt, beams, length, count, sample, top_p, temperature, seed]
    _on_model(start.click, caption, inputs, [result], "caption")
    _examples(picture)


def _question_tab(service: Service) -> None:
    turns = gr.State([])
    with gr.Row():
        with gr.Column():
            picture = _picture()
            remember = gr.Checkbox(True, label="Tell the earlier turns")
            small = service.models["questions"] in SMALL_MODELS
            gr.HTML(note(DIALOGUE_NOTE + (SMALL_DIALOGUE_NOTE if small else "")))
        with gr.Column():
            talk = gr.Chatbot(label="Conversation", height=320, buttons=[], feedback_options=None)
            question = gr.Textbox(label="Question", placeholder=SAMPLE_QUESTIONS[0], submit_btn=False)
            start = _buttons(service, "Ask")
            clear = gr.Button("Begin anew")

    def ask(path, question, turns, talk, remember, request: gr.Request):  # type: ignore[no-untyped-def]
        answer, turns = service.ask(_visitor(request), path, question or "", turns, remember)
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return turns, [*talk, *said], ""

    inputs, outputs = [picture, question, turns, talk, remember], [turns, talk, question]
    _on_model(start.click, ask, inputs, outputs, "ask")
    _on_model(question.submit, ask, inputs, outputs, "ask_by_enter")
    for trigger in (clear.click, picture.change):
        trigger(lambda: ([], []), None, [turns, talk], queue=False, api_visibility="private")
    _examples(picture)
    gr.Examples([[text] for text in SAMPLE_QUESTIONS], [question], label="Questions", api_visibility="private")


def _match_tab(service: Service) -> None:
    with gr.Row():
        with gr.Column():
            picture = _picture()
            texts = _texts(service, "Texts")
            start = _buttons(service, "Compare")
        with gr.Column():
            result = gr.HTML(min_height=200, container=True)
            gr.HTML(
                note("ITC: similarity of picture and text, each looked at by itself, −1 to 1.")
                + note(
                    "ITM: probability that they belong together, from looking at both at once; judges details better."
                )
            )

    def match(path, texts, request: gr.Request):  # type: ignore[no-untyped-def]
        return table(service.match(_visitor(request), path, texts))

    _on_model(start.click, match, [picture, texts], [result], "match")
    _examples(picture)


def _search_tab(service: Service) -> None:
    with gr.Tabs():
        with gr.Tab("Pictures for a text"):
            _pictures_for_text(service)
        with gr.Tab("Texts for a picture"):
            _texts_for_picture(service)


def _pictures_for_text(service: Service) -> None:
    folder = f"Folder {service.folder.name}"
    with gr.Row():
        with gr.Column():
            source = gr.Radio([folder, UPLOADS], value=folder, label="Search in")
            uploads = gr.File(
                label=UPLOADS, file_count="multiple", file_types=list(PICTURE_SUFFIXES), type="filepath", height=160
            )
            text = gr.Textbox(label="Text")
            topk = gr.Slider(1, 20, 6, step=1, label="Pictures")
            rerank = gr.Checkbox(True, label="Look again", info="The matching head ranks the most similar again")
            start = _buttons(service, "Search")
        found = gr.Gallery(label="Found", columns=3, height=420, object_fit="contain", interactive=False, format="png")

    def search(source, uploads, text, topk, rerank, request: gr.Request, progress=gr.Progress()):  # type: ignore[no-untyped-def]  # noqa: B008
        def moved(done: int, total: int) -> None:
            progress((done, total), desc="reading pictures", unit="pictures")

        paths = None if source == folder else uploads or []
        result = service.find_pictures(_visitor(request), text, paths, topk=int(topk), rerank=rerank, progress=moved)
        if result.left_out:
            gr.Warning(html.escape(f"{len(result.left_out)} left out: " + "; ".join(result.left_out[:3])))
        # Copies, small ones: the page gets no access to the folder itself.
        return [(_thumbnail(path), f"{score:.3f} {Path(path).name}") for path, score in result.pictures]

    _on_model(start.click, search, [source, uploads, text, topk, rerank], [found], "search")
    uploads.upload(lambda: UPLOADS, None, [source], queue=False, api_visibility="private")
    if service.models["retrieval"] in SMALL_MODELS:
        gr.Examples([["a blue star"], ["a cross above a ring"]], [text], label="Texts", api_visibility="private")


def _thumbnail(path: str) -> Image.Image:
    picture = Image.fromarray(read_image(path)[:, :, ::-1])
    picture.thumbnail((640, 640))
    return picture


def _texts_for_picture(service: Service) -> None:
    with gr.Row():
        with gr.Column():
            picture = _picture()
            texts = _texts(service, "Texts to search in")
            start = _buttons(service, "Rank")
        ranked = gr.HTML(min_height=200, container=True)

    def rank(path, texts, request: gr.Request):  # type: ignore[no-untyped-def]
        return table(service.find_texts(_visitor(request), path, texts))

    _on_model(start.click, rank, [picture, texts], [ranked], "rank")
    _examples(picture)


def _explain_tab(service: Service) -> None:
    words = "The words of a text" if "retrieval" in service.models else None
    queries = {f"The queries of {Path(name).stem}": task for task, name in service.models.items()}
    choices = [*([words] if words else []), *queries]
    with gr.Row():
        with gr.Column(scale=1):
            picture = _picture()
            what = gr.Radio(choices, value=choices[0], label="Show where these look")
            sentence = DEMO_TEXTS.splitlines()[0] if service.models.get("retrieval") in SMALL_MODELS else ""
            text = gr.Textbox(sentence, label="Text", visible=words is not None)
            start = _buttons(service, "Draw")
        with gr.Column(scale=2):
            sheet = gr.Image(label="Green little, red much", format="png", interactive=False)

    def explain(path, what, text, request: gr.Request):  # type: ignore[no-untyped-def]
        if what == words:
            return service.explain(_visitor(request), path, text)
        return service.explain_queries(_visitor(request), path, queries[what])

    _on_model(start.click, explain, [picture, what, text], [sheet], "explain")
    _examples(picture)


# title, the task of the model that it needs (None: any), what builds it
_TABS: list[tuple[str, str | None, Callable[[Service], None]]] = [
    ("Caption", "caption", _caption_tab),
    ("Questions", "questions", _question_tab),
    ("Match", "retrieval", _match_tab),
    ("Search", "retrieval", _search_tab),
    ("Where it looks", None, _explain_tab),
]
