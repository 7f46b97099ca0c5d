"""Kill -9 at any moment: the run goes on as though nothing had happened."""

from __future__ import annotations

import random
import time

import pytest

from mechanisms import mechanism
from training import (
    DENSE,
    MOE,
    assert_same_run,
    checkpoints,
    reached,
    rows,
    saving,
    trajectory,
    wait_until,
    words,
)

STEPS = 40
VARIANTS = {
    "dense-fp32": [*DENSE, *words("--precision fp32")],
    "dense-bf16": [*DENSE, *words("--precision bf16 --batch-size 2")],
    "moe-fp32": [*MOE, *words("--precision fp32 --moe-bias-update-rate 0.01")],
    "moe-bf16": [*MOE, *words("--precision bf16")],
}
ALWAYS = words(
    f"--steps {STEPS} --ema-decay 0.9 --dropout 0.1 --eval-every-n-batches 6"
)


@pytest.fixture(scope="module")
def uninterrupted(trainings):
    """The run that nobody killed, by variant; made when first asked for."""
    made = {}

    def get(variant):
        if variant not in made:
            made[variant] = trainings.train(
                f"whole-{variant}", *ALWAYS, *VARIANTS[variant]
            )
        return made[variant]

    return get


def kill_often(trainings, run, flags, kills, rng):
    """Kill a run at random moments until it has died so often; returns the moments."""
    folder = trainings.folder / run
    moments = []
    while len(moments) < kills:
        running = trainings.start(run, *flags, "--auto-resume")
        moment = rng.choice(("a row", "a save", "any time"))
        if moment == "a row":
            # Few enough steps that the run is not over before the last kill.
            ahead = rng.randint(1, max(2, STEPS // kills))
            wait_until(reached(folder, len(rows(folder)) + ahead), running)
            time.sleep(rng.uniform(0, 0.01))
        elif moment == "a save":
            wait_until(saving(folder), running)
            time.sleep(rng.uniform(0, 0.02))
        else:
            time.sleep(rng.uniform(0, 1.2))
        died = running.alive
        running.kill()
        if not died:
            assert running.process.exitcode == 0, running.output
            break
        moments.append(moment)
    return moments


def kill_and_compare(trainings, whole, variant, kills, seed):
    run = f"killed-{variant}-{seed}"
    save_every = random.Random(seed).randint(2, 5)
    flags = [*ALWAYS, *VARIANTS[variant], "--save-every-n-batches", str(save_every)]
    kill_often(trainings, run, flags, kills, random.Random(seed))
    found = trainings.train(run, *flags, "--auto-resume")
    assert_same_run(found, whole)
    # What was lost is beside the file, and nothing is left half-written.
    assert not list((found / "checkpoints").glob(".tmp*"))
    assert checkpoints(found)[-1] == f"step-{STEPS:08d}"


@mechanism(
    "killed at random",
    component="process",
    failure="five SIGKILLs at random moments, among them in saves, of dense and routed "
    "models",
    recovery="resume",
    expected="every row and the last weights as undisturbed",
)
@pytest.mark.faults
@pytest.mark.covers(
    "CKP-13: recovery from crash", "CKP-14", "TRN-31: RNG state restore"
)
@pytest.mark.parametrize("variant", ["dense-fp32", "moe-bf16"])
def test_five_kills_change_no_bit(trainings, uninterrupted, variant):
    kill_and_compare(trainings, uninterrupted(variant), variant, kills=5, seed=1)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.covers("CKP-14")
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.timeout(900)
def test_twenty_kills_change_no_bit(trainings, uninterrupted, variant):
    for seed in (2, 3, 4, 5):
        kill_and_compare(trainings, uninterrupted(variant), variant, kills=5, seed=seed)


@mechanism(
    "killed before the first checkpoint",
    component="process",
    failure="SIGKILL after three steps, with nothing saved",
    recovery="begin again",
    expected="trained from the first step; figures as undisturbed",
)
@pytest.mark.faults
def test_killed_before_the_first_checkpoint_begins_again(trainings, uninterrupted):
    flags = [*ALWAYS, *VARIANTS["dense-fp32"]]
    running = trainings.start("early", *flags, "--auto-resume", HOLD_AFTER="3")
    folder = trainings.folder / "early"
    assert wait_until(reached(folder, 3), running)
    running.kill()
    assert not checkpoints(folder)
    found = trainings.train("early", *flags, "--auto-resume")
    assert_same_run(found, uninterrupted("dense-fp32"))


@mechanism(
    "killed before the first checkpoint of a fine-tuning",
    component="process",
    failure="SIGKILL before anything is saved of a run that began from other weights",
    recovery="begin again",
    expected="it begins from those weights again, not from random ones",
)
@pytest.mark.faults
def test_the_weights_of_init_from_survive_a_kill_before_the_first_checkpoint(
    trainings, uninterrupted
):
    origin = uninterrupted("dense-fp32")
    flags = [*DENSE, *words("--precision fp32 --steps 30", init_from=origin)]
    running = trainings.start("tuned", *flags, "--auto-resume", HOLD_AFTER="2")
    folder = trainings.folder / "tuned"
    assert wait_until(reached(folder, 2), running)
    running.kill()
    first = trajectory(folder)[0]
    found = trainings.train("tuned", *flags, "--auto-resume")
    assert not (folder / "checkpoints" / "step-00000002").exists()
    assert trajectory(found)[0] == first


@pytest.mark.gpu
@pytest.mark.faults
@pytest.mark.parametrize("variant", ["dense-bf16", "moe-bf16"])
def test_kills_change_no_bit_on_a_gpu(trainings, variant):
    flags = [*VARIANTS[variant], "--device", "cuda", "--deterministic"]
    VARIANTS[f"gpu-{variant}"] = flags
    whole = trainings.train(f"whole-gpu-{variant}", *ALWAYS, *flags)
    kill_and_compare(trainings, whole, f"gpu-{variant}", kills=5, seed=6)
