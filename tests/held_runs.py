"""What a run in a process of its own can be made to do, so that a test can meet it.

These functions are called in that process, before the command (`training.start`).
"""

import os
import signal
import threading
import time
from pathlib import Path


def signals_elsewhere():
    """In the child: Ctrl-C does not wake the main thread from what it waits for.

    Python hears of the signal, in another thread, and the main thread has to look.
    The same happens when the signal arrives the instant before the wait begins.
    """
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def hold_after(step, heard):
    """In the child: when `step` is done, the run waits for a signal to end it.

    So a test that looks at the run from outside never comes too late, however busy
    the machine is. Nor does it come too early: the row of that step is written once
    all checkpoints of steps before it are. With `heard` the next step never ends: that
    file says that the run has noticed the first signal.
    """
    from lumina.train.loop import Loop

    take_step, write = Loop._guarded_step, Loop._write

    def written(loop, row):
        if row["step"] == step:
            loop.checkpoints.idle()
        write(loop, row)

    def held(loop, *arguments):
        while loop.progress.step == step and (heard or not loop.end.signals.received):
            if heard and loop.end.signals.received:
                Path(heard).touch()
            time.sleep(0.001)
        return take_step(loop, *arguments)

    Loop._guarded_step, Loop._write = held, written


def endless_evaluation(first, evaluating):
    """In the child: evaluations from number `first` on, counted from 1, never end.

    The file `evaluating`, with the rank added to its name, tells that one is under way.
    """
    from lumina.data import text_data

    batches = text_data.eval_batches
    begun = 0

    def endless(*arguments, **options):
        nonlocal begun
        begun += 1
        yield from batches(*arguments, **options)
        while begun >= first:
            Path(evaluating + os.environ.get("RANK", "0")).touch()
            yield from batches(*arguments, **options)

    text_data.eval_batches = endless
