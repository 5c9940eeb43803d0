"""The registries of this package: children of mmengine's roots in the scope ``blip2``.

A child finds its own classes first and falls back to mmengine's; ``locations`` are imported at the first look-up, so
that importing this module stays cheap. `TOKENIZER` has no root in mmengine and is our own.
"""

from importlib.util import find_spec

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import EVALUATOR as ROOT_EVALUATOR
from mmengine.registry import FUNCTIONS as ROOT_FUNCTIONS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import INFERENCERS as ROOT_INFERENCERS
from mmengine.registry import LOG_PROCESSORS as ROOT_LOG_PROCESSORS
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODEL_WRAPPERS as ROOT_MODEL_WRAPPERS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as ROOT_OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as ROOT_PARAM_SCHEDULERS
from mmengine.registry import RUNNER_CONSTRUCTORS as ROOT_RUNNER_CONSTRUCTORS
from mmengine.registry import RUNNERS as ROOT_RUNNERS
from mmengine.registry import STRATEGIES as ROOT_STRATEGIES
from mmengine.registry import TASK_UTILS as ROOT_TASK_UTILS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import VISBACKENDS as ROOT_VISBACKENDS
from mmengine.registry import VISUALIZERS as ROOT_VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

# Two distributions bring the package mmcv; pip would install one over the other, so that blip2 requires neither.
if find_spec("mmcv") is None:
    raise ModuleNotFoundError(
        "blip2 needs the package mmcv: `pip install mmcv-lite` (enough for blip2), or the full mmcv if you use its "
        "compiled operations elsewhere. Never install both into one environment",
        name="mmcv",
    )


def _child(root: Registry, location: str) -> Registry:
    return Registry(root.name, parent=root, scope="blip2", locations=[location])


MODELS = _child(ROOT_MODELS, "blip2.models")
WEIGHT_INITIALIZERS = _child(ROOT_WEIGHT_INITIALIZERS, "blip2.models")
DATASETS = _child(ROOT_DATASETS, "blip2.datasets")
DATA_SAMPLERS = _child(ROOT_DATA_SAMPLERS, "blip2.datasets")
TRANSFORMS = _child(ROOT_TRANSFORMS, "blip2.datasets")
FUNCTIONS = _child(ROOT_FUNCTIONS, "blip2.datasets")
METRICS = _child(ROOT_METRICS, "blip2.evaluation")
EVALUATOR = _child(ROOT_EVALUATOR, "blip2.evaluation")
HOOKS = _child(ROOT_HOOKS, "blip2.engine")
LOOPS = _child(ROOT_LOOPS, "blip2.engine")
LOG_PROCESSORS = _child(ROOT_LOG_PROCESSORS, "blip2.engine")
MODEL_WRAPPERS = _child(ROOT_MODEL_WRAPPERS, "blip2.engine")
OPTIMIZERS = _child(ROOT_OPTIMIZERS, "blip2.engine")
OPTIM_WRAPPERS = _child(ROOT_OPTIM_WRAPPERS, "blip2.engine")
OPTIM_WRAPPER_CONSTRUCTORS = _child(ROOT_OPTIM_WRAPPER_CONSTRUCTORS, "blip2.engine")
PARAM_SCHEDULERS = _child(ROOT_PARAM_SCHEDULERS, "blip2.engine")
RUNNERS = _child(ROOT_RUNNERS, "blip2.engine")
RUNNER_CONSTRUCTORS = _child(ROOT_RUNNER_CONSTRUCTORS, "blip2.engine")
STRATEGIES = _child(ROOT_STRATEGIES, "blip2.engine")
TASK_UTILS = _child(ROOT_TASK_UTILS, "blip2.models")
VISUALIZERS = _child(ROOT_VISUALIZERS, "blip2.visualization")
VISBACKENDS = _child(ROOT_VISBACKENDS, "blip2.visualization")
INFERENCERS = _child(ROOT_INFERENCERS, "blip2.apis")

TOKENIZER = Registry("tokenizer", scope="blip2", locations=["blip2.models"])
