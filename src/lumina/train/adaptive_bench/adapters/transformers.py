"""The Trainer of the transformers library in the benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.measure.adaptive.adapter import Task, Watched
from lumina.measure.adaptive.log import Log
from lumina.measure.adaptive.scenario import Recipe
from lumina.measure.adaptive.texts import (
    BAD_LOSS_ID,
    END,
    SPOILERS,
    SPOILT_ID,
    VOCABULARY,
)
from lumina.packages import installed
from lumina.train.adaptive_bench.adapters import ADAPTERS
from lumina.train.adaptive_bench.process_faults import PROCESS_FAULTS

END_ID = VOCABULARY - 1


class Transformers:
    """`transformers.Trainer` with a Llama, or with experts a Mixtral, of the shape.

    It has the competent arm's means: warm-up, clipping, checkpoints, and a restart from
    the last of them. A non-finite gradient goes into its weights.
    """

    name = "transformers"

    def refuses(self, recipe: Recipe, faults: tuple[Mapping[str, Any], ...]) -> str:
        """A reason for what the Trainer does not have."""
        if not installed("transformers"):
            return "transformers is not installed"
        if not installed("accelerate"):
            return "transformers' Trainer needs accelerate, which is not installed"
        if recipe.adaptive != "off":
            return "transformers' Trainer has no orchestrator"
        if recipe.robust_clip or recipe.skip_step:
            return "transformers' Trainer clips by a fixed norm only"
        if recipe.embedding_rate != 1:
            return "transformers' Trainer has one rate for all weights"
        return ""

    def supervised(self, task: Task) -> bool:
        """Never: the benchmark starts it again."""
        return False

    def train(self, task: Task, resume: bool) -> None:
        """Train to the end in this process."""
        import transformers
        from transformers.trainer_utils import get_last_checkpoint

        transformers.logging.set_verbosity_error()
        transformers.set_seed(task.recipe.seed)
        run = task.folder / "run"
        last = get_last_checkpoint(str(run)) if resume and run.is_dir() else None
        trainer = _trainer(task, run)
        trainer.train(resume_from_checkpoint=last)

    def teach(self, memory: Path, lessons: Sequence[str]) -> None:
        """Nothing: the Trainer has no memory."""

    def watched(self, task: Task) -> Watched:
        """Nothing: the Trainer decides nothing."""
        return Watched()


def _rows(file: Path, length: int) -> Tensor:
    """[R, S] the bytes of the documents, each followed by its end, in rows."""
    ids: list[int] = []
    for document in file.read_text(encoding="utf-8").split(END):
        ids += [*document.encode(), END_ID]
    rows = len(ids) // length
    return torch.tensor(ids[: rows * length]).view(rows, length)


def _model(recipe: Recipe) -> Any:
    import transformers

    shape = recipe.shape
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": recipe.length,
        "initializer_range": recipe.init_std,
        "tie_word_embeddings": False,
    }
    if shape.experts:
        config: Any = transformers.MixtralConfig(
            **common,
            intermediate_size=shape.hidden,
            num_local_experts=shape.experts,
            num_experts_per_tok=2,
            output_router_logits=recipe.balance > 0,
            router_aux_loss_coef=recipe.balance,
        )
        return transformers.MixtralForCausalLM(config)
    width = round(shape.hidden * 8 / 3 / 8) * 8
    if shape.qk_norm:
        head = shape.hidden // shape.heads
        config = transformers.Qwen3Config(
            **common, intermediate_size=width, head_dim=head
        )
        return transformers.Qwen3ForCausalLM(config)
    config = transformers.LlamaConfig(**common, intermediate_size=width)
    return transformers.LlamaForCausalLM(config)


def _trainer(task: Task, run: Path) -> Any:
    """A Trainer that counts, evaluates and injects; it reads rows in their order."""
    import transformers
    from torch.utils.data import SequentialSampler

    recipe, log = task.recipe, Log(task.log)
    rows = _rows(task.folder / "train.txt", recipe.length)
    held_out = _rows(task.folder / "held-out.txt", recipe.length)

    class Ordered(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any) -> Any:
            return SequentialSampler(rows)  # type: ignore[arg-type]

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            found: Any = super().compute_loss(model, inputs, *args, **more)
            ids = inputs["input_ids"]
            bad = bool((ids == BAD_LOSS_ID).any())
            if bad or bool((ids == SPOILT_ID).any()):
                for number, fault in enumerate(task.faults):
                    if fault["kind"] in SPOILERS:
                        step = self.state.global_step
                        log.write("fault", step, number=number, name=fault["kind"])
            return found * math.nan if bad else found

    class Injecting(transformers.TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(
            self, args: Any, state: Any, control: Any, **more: Any
        ) -> None:
            step = int(state.global_step)
            for number, fault in enumerate(task.faults):
                _inject(number, fault, step, log, run, more["model"], more["optimizer"])
            log.write("step", step + 1)

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            step = int(state.global_step)
            if step % recipe.evaluations == 0 or step == recipe.steps:
                log.write("eval", step, loss=_held_out_loss(more["model"], held_out))

    arguments = transformers.TrainingArguments(
        output_dir=str(run),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.rows,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": recipe.end_share},
        warmup_steps=round(recipe.warmup * recipe.steps),
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.beta2,
        adam_epsilon=recipe.eps,
        max_grad_norm=recipe.clip,
        save_strategy="steps" if recipe.checkpoints else "no",
        save_steps=recipe.checkpoints or recipe.steps,
        save_total_limit=3,
        logging_strategy="no",
        seed=recipe.seed,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_drop_last=True,
    )
    data = [{"input_ids": row, "labels": row} for row in rows]
    return Ordered(
        model=_model(recipe),
        args=arguments,
        train_dataset=data,
        callbacks=[Injecting()],
    )


@torch.no_grad()
def _held_out_loss(model: Any, rows: Tensor) -> float | None:
    """The mean loss of a token; None where it is not finite."""
    was = model.training
    model.eval()
    logits = model(input_ids=rows).logits[:, :-1].float()
    model.train(was)
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), rows[:, 1:].flatten()
    ).item()
    return loss if math.isfinite(loss) else None


def _inject(
    number: int,
    fault: Mapping[str, Any],
    step: int,
    log: Log,
    run: Path,
    model: Any,
    optimizer: Any,
) -> None:
    """Do what is due in this step, so often and no more, also in steps done again."""
    kind = fault["kind"]
    times = fault.get("times", fault.get("steps", 1))
    last = fault["step"] + (0 if "times" in fault else times - 1)
    due = fault["step"] <= step <= last and kind not in SPOILERS
    if not due or log.happened(number) >= times:
        return
    log.write("fault", step, number=number, name=kind)
    if kind in PROCESS_FAULTS:
        PROCESS_FAULTS[kind](fault, run)
    else:
        with torch.no_grad():
            ON_TENSORS[kind](model, optimizer, fault)


def _scale_gradients(model: Any, optimizer: Any, fault: Mapping[str, Any]) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(fault["factor"])


def _push_routers(model: Any, optimizer: Any, fault: Mapping[str, Any]) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("gate.weight"):
            parameter[0].mul_(fault["factor"])


def _flip_bit(model: Any, optimizer: Any, fault: Mapping[str, Any]) -> None:
    matrices = [one for one in model.parameters() if one.ndim > 1]
    matrices[len(matrices) // 2].view(-1)[0].mul_(2.0**40)


def _lose_moments(model: Any, optimizer: Any, fault: Mapping[str, Any]) -> None:
    for state in optimizer.state.values():
        state["exp_avg_sq"].zero_()


ON_TENSORS: Mapping[str, Callable[[Any, Any, Mapping[str, Any]], None]] = {
    "gradient_factor": _scale_gradients,
    "expert_bias": _push_routers,
    "flipped_bit": _flip_bit,
    "lost_moments": _lose_moments,
}
"""Kind -> what it does, given the model, its optimizer and the details."""

ADAPTERS["transformers"] = Transformers()
