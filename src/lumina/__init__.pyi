"""What `import lumina` offers, for type checkers: the names load on first use."""

from lumina.assemble.model import build_model as build_model
from lumina.config import Config as Config
from lumina.config import ConfigPresets as ConfigPresets
from lumina.data.kinds import register_data as register_data
from lumina.data.quality.comprehensive import (
    validate_data_comprehensive as validate_data_comprehensive,
)
from lumina.data.quality.sanitize import sanitize_dataset as sanitize_dataset
from lumina.data.readers.registered import register_reader as register_reader
from lumina.errors import LuminaError as LuminaError
from lumina.guard.safe_optimizations import PretestHook as PretestHook
from lumina.guard.safe_optimizations import SafeOptimizations as SafeOptimizations
from lumina.infer.asking import chat as chat
from lumina.infer.asking import generate as generate
from lumina.infer.evaluate import evaluate as evaluate
from lumina.infer.evaluation_tasks.running import evaluate_tasks as evaluate_tasks
from lumina.infer.evaluation_tasks.task import register_task as register_task
from lumina.infer.export import export_for_inference as export_for_inference
from lumina.infer.kv.settings import CacheSettings as CacheSettings
from lumina.infer.load import load as load
from lumina.measure.text_safety.judges import register_text_judge as register_text_judge
from lumina.model.kinds.table import register_kind as register_kind
from lumina.model.registry import register_attention as register_attention
from lumina.model.registry import register_backbone as register_backbone
from lumina.model.registry import register_block as register_block
from lumina.model.registry import register_feedforward as register_feedforward
from lumina.model.registry import register_objective as register_objective
from lumina.observe.trackers.declared import register_tracker as register_tracker
from lumina.optim.declared import register_optimizer as register_optimizer
from lumina.parallel.table import register_parallel as register_parallel
from lumina.plan.schedule_table import register_schedule as register_schedule
from lumina.train import Callback as Callback
from lumina.train import Trainer as Trainer
from lumina.train.adaptive import Orchestrator as Orchestrator
from lumina.train.controls import register_control as register_control
from lumina.train.rules import register_rule as register_rule

__version__: str
