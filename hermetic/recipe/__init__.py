"""What people write: stages, sources, environments, parameters, and the loader that evaluates a recipe."""

from hermetic.recipe.environments import Environment, Host, Image, PythonEnv
from hermetic.recipe.fixed import FixedOutput, hub_dataset, hub_snapshot, remote
from hermetic.recipe.gpu import Gpu
from hermetic.recipe.harvest import TOKENIZER, Harvest, KnownSizes, LogLine, Validator
from hermetic.recipe.loader import Recipe, load
from hermetic.recipe.memo import Memo
from hermetic.recipe.parameters import param
from hermetic.recipe.source import Source
from hermetic.recipe.stage import Script, Stage

__all__ = [
    "TOKENIZER",
    "Environment",
    "FixedOutput",
    "Gpu",
    "Harvest",
    "Host",
    "Image",
    "KnownSizes",
    "LogLine",
    "Memo",
    "PythonEnv",
    "Recipe",
    "Script",
    "Source",
    "Stage",
    "Validator",
    "hub_dataset",
    "hub_snapshot",
    "load",
    "param",
    "remote",
]
