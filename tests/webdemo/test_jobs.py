import threading
import time

import pytest
import torch
from torch import nn

from blip2.webdemo.jobs import Cancelled, Jobs


class Layers(nn.Module):
    """A model whose layers tell that they ran."""

    def __init__(self, count):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(count))
        self.ran = []

    def forward(self, inputs, between=lambda number: None):
        for number, layer in enumerate(self.layers):
            inputs = layer(inputs)
            self.ran.append(number)
            between(number)
        return inputs


def test_jobs_run_one_at_a_time():
    jobs, running, seen = Jobs(), [], []

    def work(visitor):
        with jobs.job(visitor):
            running.append(visitor)
            seen.append(len(running))
            time.sleep(0.02)
            running.remove(visitor)

    threads = [threading.Thread(target=work, args=(f"visitor {number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 5


def test_a_running_model_stops_before_its_next_layer():
    jobs, model = Jobs(), Layers(4)
    jobs.watch(model)
    with pytest.raises(Cancelled), jobs.job("anna"):
        model(torch.zeros(1, 2), between=lambda number: jobs.cancel("anna") if number == 1 else None)
    assert model.ran == [0, 1]


def test_another_visitors_job_goes_on():
    jobs, model = Jobs(), Layers(3)
    jobs.watch(model)
    with jobs.job("anna"):
        model(torch.zeros(1, 2), between=lambda number: jobs.cancel("bert"))
    assert model.ran == [0, 1, 2]


def test_what_waits_can_be_cancelled_and_leaves_nothing_behind():
    jobs, ended = Jobs(), []

    def wait():
        try:
            with jobs.job("anna"):
                ended.append("ran")
        except Cancelled:
            ended.append("cancelled")

    with jobs.job("bert"):
        thread = threading.Thread(target=wait)
        thread.start()
        while not jobs.cancel("anna"):
            time.sleep(0.001)
        thread.join(timeout=5)
    assert ended == ["cancelled"]
    assert jobs.cancel("anna") == jobs.cancel("bert") == 0
    with jobs.job("anna"):  # what was cancelled before does not hold for the next job
        jobs.check()


def test_an_error_frees_the_models():
    jobs = Jobs()
    with pytest.raises(ZeroDivisionError), jobs.job("anna"):
        1 / 0  # noqa: B018
    with jobs.job("bert"):
        pass


def test_a_watched_model_outside_of_jobs_is_as_before():
    jobs, model = Jobs(), Layers(2)
    jobs.watch(model)
    model(torch.zeros(1, 2))
    assert model.ran == [0, 1]
