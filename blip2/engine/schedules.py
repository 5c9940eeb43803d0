"""Learning-rate schedules on resuming: they go on, or follow the config where that was changed."""

from typing import Any

from mmengine.optim import OptimWrapper, _ParamScheduler

from blip2.checkpoints import CheckpointError

# What a scheduler's state says about how far it is; the rest are its settings.
_PROGRESS = {"last_step", "_global_step", "_last_value", "base_values"}


def resume_schedulers(
    schedulers: list[_ParamScheduler],
    states: list[dict[str, Any]],
    optim_wrapper: OptimWrapper,
    *,
    epochs: int,
    iterations: int,
    logger: Any,
) -> None:
    """Brings freshly built `schedulers` to where the checkpoint's `states` were.

    With the settings of the checkpoint they take over its state. With others (a longer training, say) the values are
    computed anew as if the run had had the new settings from its start; taking over the old state would keep the old
    end, after which the learning rate stands still.

    Args:
        epochs, iterations: how many of each were done when the checkpoint was written.

    Raises `CheckpointError` for a changed schedule that follows a score, which cannot be computed anew.
    """
    changed = _changes(schedulers, states)
    if not changed:
        for scheduler, state in zip(schedulers, states, strict=True):
            scheduler.load_state_dict({name: state[name] for name in _PROGRESS})
        return
    if any(getattr(scheduler, "need_val_args", False) for scheduler in schedulers):
        raise CheckpointError(
            f"the schedule differs from the checkpoint's ({'; '.join(changed)}), and one that follows a validation "
            "score cannot be computed anew: resume with the old param_scheduler, or start a new run from these weights "
            "with load_from"
        )
    for group in optim_wrapper.param_groups:
        for scheduler in schedulers:
            group[scheduler.param_name] = group[f"initial_{scheduler.param_name}"]
    _replay(schedulers, optim_wrapper, epochs, iterations)
    rates = sorted({group["lr"] for group in optim_wrapper.param_groups})
    logger.warning(
        f"the schedule differs from the checkpoint's ({'; '.join(changed)}): computed anew from the start of the run; "
        f"the learning rate is now {', '.join(f'{rate:.3g}' for rate in rates)}"
    )


def _changes(schedulers: list[_ParamScheduler], states: list[dict[str, Any]]) -> list[str]:
    if len(schedulers) != len(states):
        return [f"{len(states)} schedulers became {len(schedulers)}"]
    changes = []
    for number, (scheduler, state) in enumerate(zip(schedulers, states, strict=True)):
        own = {name: value for name, value in scheduler.state_dict().items() if not callable(value)}
        for name in sorted((own.keys() | state.keys()) - _PROGRESS):
            if own.get(name) != state.get(name):
                changes.append(f"param_scheduler[{number}].{name} {state.get(name)!r} → {own.get(name)!r}")
    return changes


def _replay(schedulers: list[_ParamScheduler], optim_wrapper: OptimWrapper, epochs: int, iterations: int) -> None:
    """Steps from the start as the run would have; iterations of an epoch come before the step of its end."""
    for scheduler in schedulers:  # as when it was built, now from the initial values
        scheduler.last_step = scheduler._global_step = -1
        scheduler.base_values = [group[f"initial_{scheduler.param_name}"] for group in optim_wrapper.param_groups]
        scheduler.step()
    optim_wrapper._global_step = 0  # type: ignore[attr-defined]  # the optimizer has stepped, in the earlier run
    ended = 0
    for iteration in range(1, iterations + 1):
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        while ended < epochs and iteration * epochs >= (ended + 1) * iterations:
            ended += 1
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()


def check_not_frozen(
    schedulers: list[_ParamScheduler], *, max_epochs: int, max_iters: int, resumed: bool, logger: Any
) -> None:
    """Looks whether training goes on after every schedule of the learning rate has ended, at next to nothing.

    That comes from a raised ``max_epochs`` beside an old ``end``. It is an error on resuming, a warning otherwise.
    """
    rates = [scheduler for scheduler in schedulers if scheduler.param_name == "lr"]
    if not rates or not _ends_at_nothing(rates[-1]):
        return
    for scheduler in rates:
        total = max_epochs if scheduler.by_epoch else max_iters
        if scheduler.end >= total:
            return
    last = rates[-1]
    unit, total = ("epochs", max_epochs) if last.by_epoch else ("iterations", max_iters)
    message = (
        f"training lasts {total} {unit}, but the learning rate has fallen to (almost) nothing after {last.end}: raise "
        "`end` (and `T_max`, where given) of the last param_scheduler along with max_epochs or max_iters"
    )
    if resumed:
        raise CheckpointError(message)
    logger.warning(message)


def _ends_at_nothing(scheduler: _ParamScheduler) -> bool:
    """Whether a scheduler brings its parameter below a thousandth of the initial value."""
    floor = getattr(scheduler, "eta_min", None)
    if floor is None:
        factor = getattr(scheduler, "end_factor", None)
        return factor is not None and factor < 1e-3
    return all(floor < 1e-3 * value for value in scheduler.base_values if value)
