"""The sections of a configuration: a file for each here, and a line for each below."""

from __future__ import annotations

import typing

from lumina.config.sections.activations import ActivationsSection
from lumina.config.sections.adapters import AdaptersSection
from lumina.config.sections.adaptive import AdaptiveSection
from lumina.config.sections.answering import AnsweringSection
from lumina.config.sections.batch_search import BatchSearchSection
from lumina.config.sections.data import DataSection
from lumina.config.sections.exchange import ExchangeSection
from lumina.config.sections.experience import ExperienceSection
from lumina.config.sections.hrm import HrmSection
from lumina.config.sections.kernels import KernelsSection
from lumina.config.sections.loading import LoadingSection
from lumina.config.sections.logging import LoggingSection
from lumina.config.sections.long_rows import LongRowsSection
from lumina.config.sections.memory_ladder import MemoryLadderSection
from lumina.config.sections.metrics import MetricsSection
from lumina.config.sections.mixture import MixtureSection
from lumina.config.sections.mod import ModSection
from lumina.config.sections.model import ModelSection
from lumina.config.sections.moe import MoeSection
from lumina.config.sections.mor import MorSection
from lumina.config.sections.nodes import NodesSection
from lumina.config.sections.offload import OffloadSection
from lumina.config.sections.parts import PartsSection
from lumina.config.sections.quantization import QuantizationSection
from lumina.config.sections.recovery import RecoverySection
from lumina.config.sections.resuming import ResumingSection
from lumina.config.sections.routing import RoutingSection
from lumina.config.sections.run import RunSection
from lumina.config.sections.safety import SafetySection
from lumina.config.sections.saving import SavingSection
from lumina.config.sections.section import Section
from lumina.config.sections.stages import StagesSection
from lumina.config.sections.supervisor import SupervisorSection
from lumina.config.sections.system import SystemSection
from lumina.config.sections.text_safety import TextSafetySection
from lumina.config.sections.tracking import TrackingSection
from lumina.config.sections.train import TrainSection
from lumina.config.sections.transfer import TransferSection


class Sections:
    """Every section, in the order of a configuration file: name -> class."""

    __slots__ = ()

    model: ModelSection
    moe: MoeSection
    hrm: HrmSection
    mod: ModSection
    mor: MorSection
    routing: RoutingSection
    parts: PartsSection
    adapters: AdaptersSection
    quantization: QuantizationSection
    data: DataSection
    mixture: MixtureSection
    stages: StagesSection
    loading: LoadingSection
    train: TrainSection
    transfer: TransferSection
    batch_search: BatchSearchSection
    activations: ActivationsSection
    memory_ladder: MemoryLadderSection
    offload: OffloadSection
    long_rows: LongRowsSection
    run: RunSection
    saving: SavingSection
    resuming: ResumingSection
    recovery: RecoverySection
    answering: AnsweringSection
    adaptive: AdaptiveSection
    safety: SafetySection
    text_safety: TextSafetySection
    metrics: MetricsSection
    logging: LoggingSection
    tracking: TrackingSection
    experience: ExperienceSection
    supervisor: SupervisorSection
    nodes: NodesSection
    system: SystemSection
    exchange: ExchangeSection
    kernels: KernelsSection


SECTIONS: dict[str, type[Section]] = typing.get_type_hints(Sections)
"""Section name -> class."""

LEAVES: dict[str, str] = {
    leaf: name for name, section in SECTIONS.items() for leaf in section.model_fields
}
"""Leaf name -> section name."""
