"""Changes to a running job: what they do, what is written down, what is refused."""

from __future__ import annotations

import json
import weakref
from types import SimpleNamespace

import pytest

from lumina import Config, Trainer
from lumina.assemble.assemble import Progress, assemble
from lumina.errors import LuminaError
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train.controls import Change, apply_change, control_named
from programs import tiny_plan
from training import column, events, in_processes, rows

STEPS = 12


def train(config, *requests, **options):
    """Train; `requests` are (step, function of the trainer), asked after it."""
    waiting = list(requests)

    def on_step(trainer, row):
        while waiting and row["step"] == waiting[0][0]:
            waiting.pop(0)[1](trainer)

    config = config.replace(**{"steps": STEPS} | options)
    trainer = Trainer(config, on_step=on_step)
    result = trainer.train()
    return trainer, result.run_dir


def journal(run):
    return open_checkpoint(latest_good(run)).meta.journal


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory, tiny_corpus, lumina_cache):
    """Gives the run of a configuration without a request, by name."""
    made = {}

    def get(config, name, **options):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = train(config, run_dir=str(folder / "run"), **options)[1]
        return made[name]

    return get


def test_live_values_take_effect_and_are_journalled(tiny_config, unchanged):
    plain = unchanged(tiny_config, "dense")
    trainer, run = train(
        tiny_config,
        (4, lambda t: t.adjust_learning_rate(1e-4, "too steep")),
        (5, lambda t: t.adjust_max_grad_norm(0.25)),
        (6, lambda t: t.adjust_weight_decay(0.5)),
    )
    # Agreed with the metrics of the next step, so it holds from the one after.
    assert trajectory_until(run, 5) == trajectory_until(plain, 5)
    assert column(run, "learning_rate")[5] == pytest.approx(1e-4)
    assert column(run, "loss")[6:] != column(plain, "loss")[6:]
    told = events(run, "control")
    assert [e["data"]["name"] for e in told] == [
        "learning_rate",
        "max_grad_norm",
        "weight_decay",
    ]
    # The second came before ranks met over the first: both were taken then.
    assert [e["step"] for e in told] == [5, 5, 7]
    assert told[0]["data"]["reason"] == "too steep"
    assert told[0]["data"]["old"] == pytest.approx(column(plain, "learning_rate")[5])
    assert [c["value"] for c in journal(run)] == [1e-4, 0.25, 0.5]
    assert {c["outcome"] for c in journal(run)} == {"applied"}
    assert trainer.controls.changes[1].old == 1.0


def trajectory_until(run, step):
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows(run)[:step]]


@pytest.mark.covers(
    "ORC-27: adjust_weight_decay(x)", "TRN-21: weight decay changeable during training"
)
def test_the_clip_and_the_decay_do_what_their_options_do(tiny_config, tmp_path):
    """From the third step on, each is the run that had the value from there."""
    for name, ask, option in (
        ("clip", lambda t: t.adjust_max_grad_norm(0.05), {"max_grad_norm": 0.05}),
        ("decay", lambda t: t.adjust_weight_decay(3.0), {"weight_decay": 3.0}),
    ):
        live = tiny_config.replace(run_dir=str(tmp_path / f"{name}-live"))
        train(live, (1, ask), steps=8)
        # A run stopped there and resumed with the option is the same from there on.
        stopped = tiny_config.replace(
            run_dir=str(tmp_path / f"{name}-stopped"), save_every_n_batches=2
        ).replace(save_total_limit=9)
        train(stopped, steps=8)
        checkpoint = tmp_path / f"{name}-stopped" / "checkpoints" / "step-00000002"
        resumed = stopped.replace(resume=str(checkpoint), **option)
        _, found = train(resumed, steps=8)
        assert trajectory_until(found, 8) == trajectory_until(
            tmp_path / f"{name}-live", 8
        )


@pytest.mark.thorough
@pytest.mark.covers("TRN-19", "ORC-24: adjust_batch_size(n)")
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
def test_reassembling_controls_change_nothing_but_memory(tiny_config, unchanged, moe):
    options = {"use_moe": moe, "num_experts": 4, "ema_decay": 0.9}
    options |= {"eval_every_n_batches": 5}
    plain = unchanged(tiny_config, f"moe-{moe}", **options)
    seen = []
    _, run = train(
        tiny_config,
        (2, lambda t: t.adjust_batch_size(1, "less memory")),
        (5, lambda t: request(t, "gradient_checkpointing", "full")),
        (7, lambda t: request(t, "gradient_checkpointing", "selective")),
        (9, lambda t: seen.append(t.program.plan)),
        **options,
    )
    for name in ("loss", "grad_norm", "eval_loss"):
        assert column(run, name) == pytest.approx(column(plain, name), rel=1e-5), name
    assert column(run, "tokens") == column(plain, "tokens")
    assert (seen[0].micro_batch_size, seen[0].grad_accum) == (1, 4)
    assert seen[0].gradient_checkpointing == "selective"
    assert [(e["data"]["old"], e["data"]["value"]) for e in events(run, "control")] == [
        (4, 1),
        ("none", "full"),
        ("full", "selective"),
    ]


def request(trainer, name, value, reason="a test"):
    return trainer.controls.request(name, value, reason)


def test_undo_goes_back_to_the_schedule(tiny_config, unchanged):
    plain = unchanged(tiny_config, "dense")
    ids = []
    trainer, run = train(
        tiny_config,
        (2, lambda t: ids.append(t.adjust_learning_rate(1e-3))),
        (2, lambda t: ids.append(t.adjust_weight_decay(0.3))),
        (6, lambda t: [t.controls.undo(i) for i in ids]),
    )
    wanted = column(plain, "learning_rate")
    found = column(run, "learning_rate")
    assert found[:3] == wanted[:3] and found[8:] == wanted[8:]
    assert found[3] == pytest.approx(1e-3)
    assert trainer.controls.changes[-1].value == 0.01
    outcomes = [c["outcome"] for c in journal(run)]
    assert outcomes == ["undone", "undone", "applied", "applied"]
    with pytest.raises(LuminaError) as caught:
        trainer.controls.undo(ids[0])
    assert caught.value.code == "E005"


def test_undo_goes_back_to_the_rate_that_was_set_before(tiny_config):
    ids = []
    trainer, run = train(
        tiny_config,
        (2, lambda t: t.adjust_learning_rate(2e-3)),
        (5, lambda t: ids.append(t.adjust_learning_rate(5e-4))),
        (8, lambda t: t.controls.undo(ids[0])),
        lr_scheduler="constant",
    )
    rate = column(run, "learning_rate")
    assert rate[3:5] == pytest.approx([2e-3] * 2)
    assert rate[6:8] == pytest.approx([5e-4] * 2)
    assert rate[9:] == pytest.approx([2e-3] * 3)
    assert trainer.controls.changes[-1].value == pytest.approx(2e-3)


def test_the_program_before_is_gone_when_the_next_is_assembled(monkeypatch):
    """Two at a time may not fit."""
    before = assemble(tiny_plan())
    network = weakref.ref(before.network)
    moments = [weakref.ref(slot) for slot in before.optimizer.slots]
    left = []

    def assembled(*words, **named):
        left.extend(ref for ref in (network, *moments) if ref() is not None)
        return assemble(*words, **named)

    monkeypatch.setattr(apply_change, "assemble", assembled)
    change = Change(1, "gradient_checkpointing", "full", "a test", "user")
    control = control_named(change.name)
    after = apply_change.assembled_again(before, Progress(), control, change)
    assert not left and after.plan.gradient_checkpointing == "full"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("learning_rate", 0, "E005"),
        ("learning_rate", float("nan"), "E005"),
        ("learning_rate", 2.0, "E005"),
        ("learning_rate", "fast", "E005"),
        ("max_grad_norm", -1, "E005"),
        ("max_grad_norm", float("inf"), "E005"),
        ("weight_decay", -0.1, "E005"),
        ("micro_batch_size", 0, "E005"),
        ("micro_batch_size", 1.5, "E005"),
        ("micro_batch_size", True, "E005"),
        ("gradient_checkpointing", "some", "E005"),
        ("capacity_factor", 0, "E005"),
        ("capacity_factor", -1, "E005"),
        ("routing_temperature", 0, "E005"),
        ("routing_temperature", float("inf"), "E005"),
        ("hidden_size", 64, "E004"),
    ],
)
def test_nonsense_is_refused_at_once(name, value, code):
    from lumina.train.controls import Controls

    controls = Controls()
    with pytest.raises(LuminaError) as caught:
        controls.request(name, value, "why not")
    assert caught.value.code == code and name in caught.value.message
    assert not controls.waiting


def test_a_split_that_does_not_divide_is_refused_in_the_journal(tiny_config, unchanged):
    plain = unchanged(tiny_config, "dense")
    _, run = train(tiny_config, (2, lambda t: t.adjust_batch_size(3)))
    assert trajectory_until(run, STEPS) == trajectory_until(plain, STEPS)
    (entry,) = journal(run)
    assert entry["outcome"].startswith("refused: E002")
    assert events(run, "control")[0]["severity"] == "warning"


def test_a_learning_rate_cannot_be_scaled_from_zero(tiny_config):
    _, run = train(
        tiny_config,
        (STEPS - 2, lambda t: t.adjust_learning_rate(1e-3)),
        min_lr=0.0,
    )
    (entry,) = journal(run)
    assert entry["outcome"].startswith("refused: E005")
    assert len(rows(run)) == STEPS


@pytest.mark.covers("CKP-02: scheduler", "CKP-09: --resume PATH")
def test_controls_survive_a_resume(tiny_config, tmp_path):
    requests = (
        (1, lambda t: t.adjust_learning_rate(1e-3)),
        (1, lambda t: t.adjust_max_grad_norm(0.05)),
        (1, lambda t: t.adjust_weight_decay(0.7)),
        (2, lambda t: t.adjust_batch_size(2)),
    )
    _, whole = train(tiny_config.replace(run_dir=str(tmp_path / "whole")), *requests)
    stopped = tiny_config.replace(
        run_dir=str(tmp_path / "stopped"), save_every_n_batches=6
    )
    train(stopped, *requests)
    checkpoint = tmp_path / "stopped" / "checkpoints" / "step-00000006"
    trainer, run = train(stopped.replace(resume=str(checkpoint)))
    assert trainer.plan.micro_batch_size == 2
    assert [c["name"] for c in journal(run)] == [c["name"] for c in journal(whole)]
    assert trajectory_until(run, STEPS) == trajectory_until(whole, STEPS)
    assert column(run, "learning_rate") == column(whole, "learning_rate")
    # New ids go on from the old ones.
    assert trainer.controls.request("weight_decay", 0.1, "later") == 5


@pytest.mark.covers("ORC-27: adjust_weight_decay(x)")
def test_adjusted_values_outlive_a_reassembly_and_a_resume(tiny_config, unchanged):
    plain = unchanged(tiny_config, "dense")
    seen = []

    def look(trainer):
        program = trainer.program
        live = program.live
        values = [live.max_grad_norm.item(), live.weight_decay]
        values.append(live.learning_rate_scale)
        seen.append([program.plan.micro_batch_size, *values])

    stopped = tiny_config.replace(save_every_n_batches=6)
    _, run = train(
        stopped,
        (1, lambda t: t.adjust_learning_rate(1e-3)),
        (1, lambda t: t.adjust_max_grad_norm(0.0625)),
        (1, lambda t: t.adjust_weight_decay(0.7)),
        (3, look),
        (3, lambda t: t.adjust_batch_size(2)),
        (5, look),
    )
    scale = 1e-3 / column(plain, "learning_rate")[2]
    adjusted = [0.0625, 0.7, pytest.approx(scale)]
    assert seen == [[4, *adjusted], [2, *adjusted]]
    wanted = [rate * scale for rate in column(plain, "learning_rate")[2:]]
    assert column(run, "learning_rate")[2:] == pytest.approx(wanted)

    checkpoint = f"{stopped.run.run_dir}/checkpoints/step-00000006"
    seen.clear()
    _, run = train(stopped.replace(resume=checkpoint), (8, look))
    assert seen == [[2, *adjusted]]
    assert column(run, "learning_rate")[2:] == pytest.approx(wanted)


def test_an_option_given_on_resume_wins_over_an_old_control(tiny_config):
    stopped = tiny_config.replace(save_every_n_batches=6)
    train(
        stopped,
        (1, lambda t: t.adjust_learning_rate(1e-3)),
        (1, lambda t: t.adjust_max_grad_norm(0.05)),
        (2, lambda t: t.adjust_batch_size(2)),
    )
    checkpoint = f"{stopped.run.run_dir}/checkpoints/step-00000006"
    live = []
    trainer, _ = train(
        stopped.replace(
            resume=checkpoint, learning_rate=5e-3, max_grad_norm=0.7, batch_size=1
        ),
        (8, lambda t: live.append(t.program.live)),
    )
    assert live[0].learning_rate_scale == 1.0
    assert live[0].max_grad_norm == pytest.approx(0.7)
    assert trainer.plan.micro_batch_size == 1


def test_an_option_of_routing_given_on_resume_wins_over_the_checkpoint(tiny_config):
    moe = tiny_config.replace(
        use_moe=True, num_experts=4, moe_intermediate_size=32, expert_dropout=0.1
    )
    _, run = train(moe, (1, lambda t: t.adjust_routing_temperature(1.5)), steps=3)
    again = moe.replace(
        resume=str(run), routing_temperature=0.7, steps=4, expert_dropout=0.1
    )
    trainer, _ = train(again, steps=4)
    assert trainer.plan.spec.moe.temperature == pytest.approx(0.7)
    assert trainer.plan.spec.moe.expert_dropout == pytest.approx(0.1)


@pytest.mark.covers("ORC-26: emergency_lr_reduction(factor=10.0)")
def test_an_emergency_reduction_divides_the_rate(tiny_config, unchanged):
    plain = unchanged(tiny_config, "dense")
    _, run = train(tiny_config, (3, lambda t: t.emergency_lr_reduction(10)))
    rate = column(plain, "learning_rate")[2] / 10
    assert column(run, "learning_rate")[4] == pytest.approx(rate, rel=1e-4)


def test_asking_without_a_run_is_refused(tiny_config):
    with pytest.raises(LuminaError) as caught:
        Trainer(tiny_config).adjust_learning_rate(1e-4)
    assert caught.value.code == "E002"


@pytest.mark.thorough
def test_two_ranks_change_together(tiny_config, tmp_path, unchanged):
    from programs import controlled_rank

    config = tiny_config.replace(
        steps=STEPS, batch_size=2, run_dir=str(tmp_path / "two"), parallel="fsdp2"
    )
    answers = in_processes(controlled_rank, 2, config, answers=2)
    journals = [json.dumps(answer[1]) for answer in sorted(answers)]
    assert journals[0] == journals[1]
    two = tmp_path / "two"
    _, one = train(
        tiny_config,
        (2, lambda t: t.adjust_learning_rate(1e-3)),
        (3, lambda t: t.adjust_batch_size(1)),
    )
    assert column(two, "loss") == pytest.approx(column(one, "loss"), rel=1e-5)
    assert column(two, "learning_rate") == column(one, "learning_rate")
    assert [e["step"] for e in events(two, "control")] == [3, 3]


def test_a_run_stopped_from_python_goes_on_when_resumed(tiny_config):
    whole = Trainer(tiny_config.replace(run_dir=f"{tiny_config.get('run_dir')}-whole"))
    expected = whole.train()

    def on_step(trainer, row):
        if row["step"] == 4:
            trainer.stop()

    stopped = Trainer(tiny_config, on_step=on_step).train()
    assert (stopped.exit_code, stopped.reason) == (143, "stopped by Trainer.stop")
    assert 4 <= stopped.steps < expected.steps
    status = json.loads((stopped.run_dir / "status.json").read_text())
    assert status["status"] == "interrupted"
    resumed = Trainer(Config(resume=str(stopped.run_dir))).train()
    assert resumed.exit_code == 0
    assert resumed.steps == expected.steps
    assert resumed.final_loss == expected.final_loss


def test_nothing_can_be_stopped_before_it_runs(tiny_config):
    with pytest.raises(LuminaError) as caught:
        Trainer(tiny_config).stop()
    assert caught.value.code == "E002"


@pytest.mark.parametrize(
    ("name", "value", "hook", "given", "lacks"),
    [
        ("checkpoint", "now", "save", (), "nothing to save"),
        ("snapshot", "marked", "snapshot", (), "nothing to take"),
        (
            "rollback",
            {"steps": 3},
            "rollback",
            ({"steps": 3},),
            "nothing to go back to",
        ),
    ],
)
def test_what_only_a_run_can_do_is_done_or_refused(name, value, hook, given, lacks):
    control, done = control_named(name), []
    program = SimpleNamespace(live=SimpleNamespace(**{hook: None}))
    with pytest.raises(LuminaError, match="no run trains this program") as caught:
        control.set(program, value)
    assert caught.value.code == "E002" and lacks in caught.value.message
    program.live = SimpleNamespace(**{hook: lambda *asked: done.append(asked)})
    control.set(program, value)
    assert done == [given]
