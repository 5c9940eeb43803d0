"""Runs a peer for `blip2.benchmark.worker`: started by path, ``python serve.py FOLDER``, in the peer's interpreter.

The folder has ``job.json`` (what to build and do) and ``weights.safetensors``. Requests come as lines of JSON on
standard input, ``{"do": ...}``, and each is answered by a line on standard output; what the libraries print goes to
standard error. Between requests the process waits for a line, and its threads sleep.

An adapter is a file beside this one, of the peer's name, with ``build(job, weights, marks)``, which returns the module
and a function: pixels B×3×H×W to the answers by name. It calls ``marks`` where a stage ends.
"""

import importlib.util
import json
import os
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path

DTYPES = {"fp32": "float32", "fp64": "float64", "bf16": "bfloat16", "fp16": "float16"}


class Marks:
    """Where stages end: the seconds since the mark before are added to the stage's."""

    def __init__(self, synchronize):
        self.synchronize = synchronize
        self.begin()

    def begin(self):
        self.synchronize()
        self.seconds = {}
        self.states = {}
        self.start = self.last = time.perf_counter()

    def __call__(self, stage, state=None):
        self.synchronize()
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now
        if state is not None:
            self.states.setdefault(stage, []).append(state)

    def after(self, module, stage):
        """A mark whenever `module` has been called."""
        module.register_forward_hook(lambda _module, _inputs, output: self(stage, output))

    def after_first(self, owner, method, module, stage, rest):
        """Around each ``owner.method(...)``: a mark when `module` has been called once, and one, `rest`, at its end."""
        original = getattr(owner, method)

        def marked(*args, **kwargs):
            def once(_module, _inputs, _output):
                hook.remove()  # the calls after the first go on undisturbed
                self(stage)

            hook = module.register_forward_hook(once)
            result = original(*args, **kwargs)
            self(rest)
            return result

        setattr(owner, method, marked)


class Server:
    """A built peer and what it can be asked."""

    def __init__(self, folder):
        import torch
        from safetensors.torch import load_file, save_file

        self.torch, self.load, self.save, self.folder = torch, load_file, save_file, folder
        job = json.loads((folder / "job.json").read_text())
        torch.set_num_threads(job["threads"])
        self.device = torch.device(job["device"])
        self.precision = "fp32"
        self.marks = Marks(torch.cuda.synchronize if self.device.type == "cuda" else lambda: None)
        adapter = _load(Path(__file__).with_name(job["peer"] + ".py"))
        self.module, self.run = adapter.build(job, load_file(str(folder / "weights.safetensors")), self.marks)
        self.module.eval().requires_grad_(False).to(self.device)

    def pictures(self, request):
        """Takes the decoded pictures from the folder."""
        self.pixels = self.load(str(self.folder / "pictures.safetensors"))["pixels"].to(self.device)
        return {}

    def time(self, request):
        """The whole work; seconds of its stages."""
        begun = time.process_time()
        self._answers()
        seconds = dict(self.marks.seconds, pipeline=time.perf_counter() - self.marks.start)
        return {"seconds": seconds, "cpu": time.process_time() - begun}

    def answer(self, request):
        """The whole work; answers and states of the stages go into the folder."""
        found = self._answers()
        states = {"state." + name: self.torch.cat(values) for name, values in self.marks.states.items()}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in {**found, **states}.items()}
        self.save(tensors, str(self.folder / "answers.safetensors"))
        return {}

    def cast(self, request):
        """Weights, and what the peer makes without naming a dtype, in fp32 or fp64."""
        dtype = getattr(self.torch, DTYPES[request["dtype"]])
        self.torch.set_default_dtype(dtype)
        self.module.to(dtype)
        return {}

    def set_precision(self, request):
        """Autocast from now on, or none."""
        self.precision = request["precision"]
        return {}

    def idle(self, request):
        """Processor seconds since the start, all threads together."""
        return {"cpu": time.process_time()}

    def _answers(self):
        autocast = nullcontext()
        if self.precision != "fp32":
            autocast = self.torch.autocast(self.device.type, getattr(self.torch, DTYPES[self.precision]))
        pixels = self.pixels.to(self.torch.get_default_dtype())
        with self.torch.inference_mode(), autocast:
            self.marks.begin()
            found = self.run(pixels)
            self.marks.synchronize()
        return found


def _load(path):
    spec = importlib.util.spec_from_file_location("adapter_of_" + path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(folder):
    """Build, then answer requests until there are none."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get among the answers

    def reply(value):
        channel.write(json.dumps(value) + "\n")
        channel.flush()

    def attempt(action):
        try:
            reply({"ok": True, **action()})
        except BaseException as error:
            traceback.print_exc()
            reply({"ok": False, "error": type(error).__name__ + ": " + str(error)})
            raise SystemExit(1) from error

    server = []

    def build():
        server.append(Server(Path(folder)))
        return {"torch": server[0].torch.__version__}

    attempt(build)
    for line in sys.stdin:
        request = json.loads(line)
        attempt(lambda request=request: getattr(server[0], request["do"])(request))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose files are called like the packages that they drive
    main(sys.argv[1])
