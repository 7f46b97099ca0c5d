"""What the server of child processes does once, so that no child does it again.

Every `lumina train` compiles the template of its report and evaluates the types of all
options: a third of what the shortest runs compute. A child that was forked finds both
in the caches of the same functions, and the modules that runs find by their names.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy.ma  # noqa: F401
import pytest  # noqa: F401

import lumina.cli.train
import lumina.data.tokenizer_makes.gguf
import lumina.data.tokenizer_makes.hugging_face
import lumina.data.tokenizer_makes.rank_file
import lumina.data.tokenizer_makes.sentence_piece
import lumina.model.token_counts.accuracy
import lumina.model.token_counts.log_z
import lumina.observe.report.charts.attention
import lumina.observe.report.charts.loss
import lumina.observe.report.charts.optimisation
import lumina.observe.report.charts.remaining
import lumina.observe.report.charts.routing
import lumina.observe.report.charts.sources
import lumina.observe.report.charts.speed
import lumina.observe.report.charts.updates
import lumina.ops.kv_formats.formats.auto
import lumina.optim.methods.adamw
import lumina.plan.schedules.cosine
import lumina.train.looks.gradient_groups
import training  # noqa: F401
from lumina.cli.parsing import Parser
from lumina.observe.report import page

# Only this server has been told where the tests are: what it starts is as without it.
_PATHS = os.environ["PYTHONPATH"].split(os.pathsep)
_PATHS.remove(str(Path(__file__).parent))
if _PATHS:
    os.environ["PYTHONPATH"] = os.pathsep.join(_PATHS)
else:
    del os.environ["PYTHONPATH"]

page._template()
lumina.cli.train.add_arguments(Parser(prog="lumina train"))
