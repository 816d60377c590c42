"""What is done around the network for a batch of calls, as two more functions of an artifact: so that a board need not go through
numpy for it, whose code the weights push out of the cache with every step.

    intake(slots, taken, rings, mean, begun_at, limits, audio, start)
    decide(slots, answers, states, speech, rules, smoothed, window, seen, memory, ids, taken, written, ready_since, start,
           numbers, flags, shares, times)

They are what the runtime's AudioRings.take, Conditioner and Decisions do, on the same arrays, and tests hold them to it. Nothing
of a model is in them: sizes come with the arrays. What lies in which column, edgeemo_runtime/around.py says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeemo_runtime.abi import FLAGS, NUMBERS, RULES, SPEECH, TIMES
from edgeemo_runtime.conditioning import OFFSET_MEMORY
from edgeemo_runtime.decision import LEAST_DOUBT, LISTENING, MEMORY, STREAK
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

Expr = Any
INTAKE, DECIDE = "intake", "decide"
LARGEST_FLOAT = 3.4e38
SAID = ("label", "handoff", *FLAGS)
LANES = 4  # of the sum of a step's samples


class _Body:
    """What both are written with."""

    def __init__(self) -> None:
        self.sizes: dict[str, Expr] = {}

    def buffer(self, name: str, dtype: str, *shape: str | int) -> Expr:
        """A parameter; the same name of a size is the same size."""
        sizes = [s if isinstance(s, int) else self.sizes.setdefault(s, T.int64()) for s in shape]
        return T.arg(name, T.buffer(sizes, dtype))

    def local(self, dtype: str, value: Expr, lanes: int = 1) -> Expr:
        """A variable on the stack."""
        made = T.alloc_buffer((lanes,), dtype)
        T.buffer_store(made, value if lanes == 1 else T.Broadcast(value, lanes), [0 if lanes == 1 else T.Ramp(0, 1, lanes)])
        return made

    def when(self, condition: Expr, do: Callable[[], None]) -> None:
        with T.If(condition), T.Then():
            do()


def _rounded(product: Expr) -> Expr:
    """A float32 product that no addition takes in unrounded: numpy rounds both."""
    return T.Bind(T.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence.f32", product))


def intake() -> tirx.PrimFunc:
    """The next step of each slot from its ring, without an offset that lasts; a step of ``rings`` lies in one piece."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(INTAKE)
        b = _Body()
        slots = b.buffer("slots", "int32", "batch")
        taken = b.buffer("taken", "int64", "slots")
        rings = b.buffer("rings", "float32", "slots", "capacity")
        mean = b.buffer("mean", "float32", "slots")
        begun_at = b.buffer("begun_at", "int64", "slots")
        limits = b.buffer("limits", "float64", 2)  # the largest offset that is let be, and samples a second
        audio = b.buffer("audio", "float32", "batch", "step")
        start = b.buffer("start", "float64", "batch")
        T.func_attr({"tirx.noalias": True})
        step, vectors = b.sizes["step"], tirx.truncdiv(b.sizes["step"], LANES)
        with T.serial(0, b.sizes["batch"]) as i:
            slot = T.Bind(slots[i])
            position = T.Bind(taken[slot])
            at = T.Bind(tirx.truncmod(position, b.sizes["capacity"]))
            sums = b.local("float32", T.float32(0), LANES)
            with T.serial(0, vectors) as v:
                part = T.Bind(rings[slot, T.Ramp(at + v * LANES, 1, LANES)])
                T.buffer_store(audio, part, [i, T.Ramp(v * LANES, 1, LANES)])
                T.buffer_store(sums, sums[T.Ramp(0, 1, LANES)] + part, [T.Ramp(0, 1, LANES)])
            with T.serial(vectors * LANES, step) as rest:
                T.buffer_store(audio, rings[slot, at + rest], [i, rest])
                T.buffer_store(sums, sums[0] + rings[slot, at + rest], [0])
            total = T.Bind((sums[0] + sums[1]) + (sums[2] + sums[3]))
            average = T.Bind(total / T.Cast("float32", step))
            learned = T.Bind(mean[slot] + _rounded(T.float32(OFFSET_MEMORY) * (average - mean[slot])))
            T.buffer_store(mean, learned, [slot])
            with T.If(T.Cast("float64", tirx.abs(learned)) > limits[0]), T.Then():
                with T.serial(0, vectors) as v:
                    ramp = T.Ramp(v * LANES, 1, LANES)
                    T.buffer_store(audio, audio[i, ramp] - T.Broadcast(learned, LANES), [i, ramp])
                with T.serial(vectors * LANES, step) as rest:
                    T.buffer_store(audio, audio[i, rest] - learned, [i, rest])
            T.buffer_store(start, T.Cast("float64", begun_at[slot] + position) / limits[1], [i])
            T.buffer_store(taken, position + step, [slot])
    return builder.get()


def decide() -> tirx.PrimFunc:
    """The rules of Decisions, and what the answer of a step is made of."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(DECIDE)
        b = _Body()
        slots = b.buffer("slots", "int32", "batch")
        answers = b.buffer("answers", "float32", "batch", "labels")
        states = b.buffer("states", "float32", "slots", "words")
        speech = b.buffer("speech", "float64", len(SPEECH))
        rules = b.buffer("rules", "float64", len(RULES))
        smoothed = b.buffer("smoothed", "float32", "slots", "labels")
        window = b.buffer("window", "int64", "slots", "window")
        seen = b.buffer("seen", "int64", "slots", "labels_and_none")
        memory = b.buffer("memory", "int64", "slots", len(MEMORY))
        ids = b.buffer("ids", "int64", "slots")
        taken = b.buffer("taken", "int64", "slots")
        written = b.buffer("written", "int64", "slots")
        ready_since = b.buffer("ready_since", "float64", "slots")
        start = b.buffer("start", "float64", "batch")
        numbers = b.buffer("numbers", "int64", "batch", len(NUMBERS))
        flags = b.buffer("flags", "uint8", "batch", len(FLAGS))
        shares = b.buffer("shares", "float32", "batch", 3, "labels")
        times = b.buffer("times", "float64", "batch", len(TIMES))
        T.func_attr({"tirx.noalias": True})
        labels = b.sizes["labels"]

        def rule(name: str) -> Expr:
            return rules[RULES.index(name)]

        def on(name: str) -> Expr:
            return rule(name) > T.float64(0)

        with T.serial(0, b.sizes["batch"]) as i:
            slot = T.Bind(slots[i])

            def kept(name: str) -> Expr:
                return memory[slot, MEMORY.index(name)]

            def keep(name: str, value: Expr) -> None:
                T.buffer_store(memory, T.Cast("int64", value), [slot, MEMORY.index(name)])

            def largest(row: int) -> tuple[Expr, Expr]:
                """Of the batch row's ``shares``: the first place of the largest, and that."""
                place, most = b.local("int64", T.int64(0)), b.local("float32", shares[i, row, 0])
                with T.serial(1, labels) as label, T.If(shares[i, row, label] > most[0]), T.Then():
                    T.buffer_store(place, label, [0])
                    T.buffer_store(most, shares[i, row, label], [0])
                return place, most

            # Answers that are no probabilities become uniform. Of what is no number TVM holds no comparison to be as false as its
            # opposite, hence the one that is true of what is sound.
            total = b.local("float32", T.float32(0))
            with T.serial(0, labels) as label:
                T.buffer_store(total, total[0] + answers[i, label], [0])
            sound = T.Bind(tirx.abs(total[0]) <= T.float32(LARGEST_FLOAT))
            steps = T.Bind(kept("steps"))
            begun = T.Bind(steps > 0)
            place = T.Bind(T.Cast("int64", speech[SPEECH.index("place")]))
            counted = T.Cast("float64", states[slot, tirx.max(place, T.int64(0))])
            spoken = T.Bind(tirx.Select(place >= 0, counted, T.Cast("float64", steps + 1)))
            listening = T.Bind(tirx.And(tirx.Not(begun), spoken < speech[SPEECH.index("least")]))
            alpha = T.Bind(T.Cast("float32", rule("alpha")))
            with T.serial(0, labels) as label:
                p = T.Bind(tirx.Select(sound, answers[i, label], T.float32(1) / T.Cast("float32", labels)))
                moved = smoothed[slot, label] + _rounded(alpha * (p - smoothed[slot, label]))
                s = T.Bind(tirx.Select(tirx.And(begun, alpha < T.float32(1)), moved, p))
                T.buffer_store(smoothed, tirx.Select(listening, smoothed[slot, label], s), [slot, label])
                for row, value in enumerate((p, s, s)):
                    T.buffer_store(shares, value, [i, row, label])
            said = {name: b.local("int64", T.int64(LISTENING if name == "label" else 0)) for name in SAID}

            def say(name: str, value: Expr) -> None:
                T.buffer_store(said[name], T.Cast("int64", value), [0])

            def weigh(top: Expr, share: Expr) -> None:
                size = b.sizes["window"]
                in_window = T.Bind(tirx.min(steps, size))
                least = tirx.max(rule("disagreement") * T.Cast("float64", in_window), T.float64(LEAST_DOUBT))
                doubted = T.Bind(T.Cast("float64", in_window - seen[slot, top[0]]) >= least)
                place = T.Bind(tirx.truncmod(steps, size))
                left = T.Bind(window[slot, place])
                T.buffer_store(seen, seen[slot, left] - 1, [slot, left])
                T.buffer_store(seen, seen[slot, top[0]] + 1, [slot, top[0]])
                T.buffer_store(window, top[0], [slot, place])

                def halve() -> None:
                    T.buffer_store(shares, shares[i, 2, top[0]] * T.float32(0.5), [i, 2, top[0]])
                    whole = b.local("float32", T.float32(0))
                    with T.serial(0, labels) as label:
                        T.buffer_store(whole, whole[0] + shares[i, 2, label], [0])
                    with T.serial(0, labels) as label:
                        T.buffer_store(shares, shares[i, 2, label] / whole[0], [i, 2, label])
                    now, most = largest(2)
                    T.buffer_store(top, now[0], [0])
                    T.buffer_store(share, most[0], [0])

                b.when(doubted, halve)

            def decision(top: Expr, share: Expr) -> None:
                low = T.Bind(share[0] < T.Cast("float32", rule("least_confidence")))
                answer = T.Bind(tirx.Select(tirx.And(on("confidence"), low), T.Cast("int64", rule("neutral")), top[0]))
                before, stood = T.Bind(kept("answer")), T.Bind(kept("label"))
                decided = T.Bind(before >= 0)
                in_row = T.Bind(kept("in_row") * T.Cast("int64", answer == before) + 1)
                settled = tirx.Or(T.Cast("float64", in_row) >= rule("settle_decisions"), tirx.Not(decided))
                label = T.Bind(tirx.Select(tirx.Or(tirx.Not(on("settle")), settled), answer, stood))
                changed = T.Bind(tirx.And(decided, label != stood))
                soon = T.Cast("float64", steps - kept("since")) * rule("step_s") < rule("jump_s")
                jumped = T.Bind(tirx.And(changed, soon))
                bits = T.Bind(T.Cast("int64", low) + 2 * T.Cast("int64", tirx.And(decided, answer != before)))
                # STREAK times the bad decisions in a row, and why.
                why = tirx.bitwise_or(kept("streak") + STREAK, bits)
                code = T.Bind(tirx.Select(tirx.And(on("handoff"), bits > 0), why, T.int64(0)))
                reached = T.Cast("float64", code) >= rule("handoff_decisions") * T.float64(STREAK)
                handed = T.Bind(tirx.And(tirx.And(reached, code > 0), kept("handed_off") == 0))
                for name, value in {
                    "in_row": in_row, "streak": code, "answer": answer, "label": label, "low": low,
                    "since": tirx.Select(changed, steps, kept("since")),
                    "handed_off": tirx.Select(handed, T.int64(1), kept("handed_off")),
                }.items():  # fmt: skip
                    keep(name, value)
                say("handoff", tirx.Select(handed, tirx.truncmod(code, STREAK), T.int64(0)))
                say("jumped", jumped)
                say("changed", changed)
                say("decision", T.int64(1))

            def answered() -> None:
                top, share = largest(1)
                b.when(on("consistency"), lambda: weigh(top, share))
                every = T.Bind(rule("decision_s"))
                second = T.Bind(T.Cast("int64", spoken * rule("step_s") / tirx.Select(every > 0, every, T.float64(1))))
                due = T.Bind(tirx.Or(every <= 0, second != kept("second")))
                keep("second", tirx.Select(every > 0, second, kept("second")))
                keep("steps", steps + 1)
                b.when(due, lambda: decision(top, share))
                say("label", kept("label"))
                say("low", kept("low"))

            b.when(tirx.Not(listening), answered)
            waiting = written[slot] - taken[slot] >= T.Cast("int64", rule("step"))
            odd = T.Cast("int64", waiting) + 2 * (1 - T.Cast("int64", sound))
            for column, value in enumerate((ids[slot], said["label"][0], said["handoff"][0], odd)):
                T.buffer_store(numbers, value, [i, column])
            for column, name in enumerate(FLAGS):
                T.buffer_store(flags, T.Cast("uint8", said[name][0]), [i, column])
            for column, value in enumerate((start[i], start[i] + rule("step_s"), ready_since[slot])):
                T.buffer_store(times, value, [i, column])
            T.buffer_store(ready_since, T.float64(float("inf")), [slot])
    return builder.get()
