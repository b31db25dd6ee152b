"""A signal ends a run where nothing is lost: between steps, at once where all is saved, and always at the second one."""

import os
import pickle
import signal
import threading

import pytest

from core.process.signals import EXIT_CODE, INTERRUPTED, SIGNALS, Preempted, Preemption, raise_on_signal

EACH_SIGNAL = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@EACH_SIGNAL
def test_a_signal_that_is_listened_for_is_only_noted_until_the_loop_looks(number: int) -> None:
    with Preemption().listening() as preemption:
        preemption.check()  # nothing has come yet
        send(number)
        assert preemption.requested
        with pytest.raises(Preempted) as error:
            preemption.check()
    assert error.value.code == EXIT_CODE == 75


@EACH_SIGNAL
def test_a_second_signal_raises_at_once(number: int) -> None:
    with Preemption().listening() as preemption:
        send(signal.SIGTERM)
        with pytest.raises(Preempted):
            send(number)
        assert preemption.requested


def test_a_signal_raises_at_once_where_nothing_is_lost() -> None:
    with Preemption().listening() as preemption, preemption.interruptible(), pytest.raises(Preempted):
        send(signal.SIGTERM)


def test_a_signal_that_came_before_raises_on_entering_where_nothing_is_lost() -> None:
    entered = False
    with Preemption().listening() as preemption:
        send(signal.SIGTERM)
        with pytest.raises(Preempted), preemption.interruptible():
            entered = True
    assert not entered


def test_after_an_interruptible_block_signals_are_only_noted_again() -> None:
    with Preemption().listening() as preemption:
        with preemption.interruptible():
            with preemption.interruptible():
                pass
            with pytest.raises(Preempted):  # the inner block has not ended the outer one
                send(signal.SIGTERM)
        preemption.requested = False
        send(signal.SIGTERM)
        assert preemption.requested


def test_before_training_a_signal_raises_at_once_and_training_takes_over_and_gives_back() -> None:
    with raise_on_signal():
        with Preemption().listening() as preemption:
            send(signal.SIGTERM)
            assert preemption.requested
        with pytest.raises(Preempted, match="the same command goes on from there"):
            send(signal.SIGUSR1)


def test_handlers_are_put_back_however_the_block_ends() -> None:
    heard: list[int] = []

    def own(number: int, frame: object) -> None:
        heard.append(number)

    before = {number: signal.signal(number, own) for number in SIGNALS}
    try:
        with pytest.raises(ZeroDivisionError), Preemption().listening():
            raise ZeroDivisionError
        with pytest.raises(Preempted), raise_on_signal():
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGUSR1)
        assert heard == [signal.SIGTERM, signal.SIGUSR1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_interrupt_is_noted_like_a_signal_and_a_second_one_raises_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with Preemption().listening() as preemption:
        send(signal.SIGINT)
        assert preemption.requested
        assert capfd.readouterr().err == "stopping as soon as this step is saved; Ctrl-C again ends the run at once\n"
        with pytest.raises(Preempted) as error:
            send(signal.SIGINT)
        assert (error.value.code, str(Preempted.saved_at("step 5 of 9", preemption.code))) == (
            INTERRUPTED,
            "stopped by Ctrl-C and saved at step 5 of 9; the same command goes on from there",
        )


def test_under_torchrun_which_passes_an_interrupt_on_it_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with Preemption().listening() as preemption:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert preemption.requested


def test_in_another_thread_nothing_listens_and_nothing_breaks() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), list[object]()

    def work() -> None:
        with Preemption().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_exception_reaches_another_process_with_its_message_and_code() -> None:
    copy = pickle.loads(pickle.dumps(Preempted("saved at step 5", INTERRUPTED)))
    assert (type(copy), str(copy), copy.code) == (Preempted, "saved at step 5", INTERRUPTED)
