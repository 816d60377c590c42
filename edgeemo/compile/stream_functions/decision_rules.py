"""Post-processing of a batch of answers as a compiled function: the decision rules of edgeemo_runtime/decision.py.

    decide(slots, answers, rules, smoothed, window, seen, memory, ids, taken, written, ready_since, start,
           numbers, flags, shares, times)

It does on the same arrays what the runtime's Decisions does in numpy, and tests hold the two to the same bits. The order of
columns is edgeemo_runtime/abi.py's, and goes into the artifact's manifest.
"""

from __future__ import annotations

from typing import Any

from edgeemo_runtime.abi import FLAGS, NUMBERS, RULES, TIMES
from edgeemo_runtime.decision import LEAST_DOUBT, MEMORY, STREAK
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.stream_functions.builder import FunctionBuilder, rounded

Expr = Any
DECIDE = "decide"
LARGEST_FLOAT = 3.4e38


def decide() -> tirx.PrimFunc:
    """The rules of Decisions, and what the answer of a step is made of."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(DECIDE)
        b = FunctionBuilder()
        slots = b.buffer("slots", "int32", "batch")
        answers = b.buffer("answers", "float32", "batch", "labels")
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
            alpha = T.Bind(T.Cast("float32", rule("alpha")))
            with T.serial(0, labels) as label:
                p = T.Bind(tirx.Select(sound, answers[i, label], T.float32(1) / T.Cast("float32", labels)))
                moved = smoothed[slot, label] + rounded(alpha * (p - smoothed[slot, label]))
                s = T.Bind(tirx.Select(tirx.And(begun, alpha < T.float32(1)), moved, p))
                T.buffer_store(smoothed, s, [slot, label])
                for row, value in enumerate((p, s, s)):
                    T.buffer_store(shares, value, [i, row, label])
            top, share = largest(1)

            def weigh() -> None:
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

            b.when(on("consistency"), weigh)
            low = T.Bind(share[0] < T.Cast("float32", rule("least_confidence")))
            answer = T.Bind(tirx.Select(tirx.And(on("confidence"), low), T.Cast("int64", rule("neutral")), top[0]))
            before, said = T.Bind(kept("answer")), T.Bind(kept("label"))
            same = T.Bind(T.Cast("int64", answer == before))
            in_row = T.Bind(kept("in_row") * same + 1)
            settled = tirx.Or(T.Cast("float64", in_row) >= rule("settle_steps"), tirx.Not(begun))
            label = T.Bind(tirx.Select(tirx.Or(tirx.Not(on("settle")), settled), answer, said))
            changed = T.Bind(tirx.And(begun, label != said))
            soon = T.Cast("float64", steps - kept("since")) * rule("step_s") < rule("jump_s")
            jumped = T.Bind(tirx.And(changed, soon))
            bits = T.Bind(T.Cast("int64", low) + 2 * T.Cast("int64", tirx.And(begun, answer != before)))
            # STREAK times the bad steps in a row, and why.
            streak = kept("streak")
            why = tirx.bitwise_or(streak + STREAK, bits)
            code = T.Bind(tirx.Select(tirx.And(on("handoff"), bits > 0), why, T.int64(0)))
            reached = T.Cast("float64", code) >= rule("handoff_steps") * T.float64(STREAK)
            handed = T.Bind(tirx.And(tirx.And(reached, code > 0), kept("handed_off") == 0))
            handoff = T.Bind(tirx.Select(handed, tirx.truncmod(code, STREAK), T.int64(0)))
            for name, value in {
                "in_row": in_row, "streak": code, "answer": answer, "label": label, "steps": steps + 1,
                "since": tirx.Select(changed, steps, kept("since")),
                "handed_off": tirx.Select(handed, T.int64(1), kept("handed_off")),
            }.items():  # fmt: skip
                keep(name, value)
            waiting = written[slot] - taken[slot] >= T.Cast("int64", rule("step"))
            odd = T.Cast("int64", waiting) + 2 * (1 - T.Cast("int64", sound))
            for column, value in enumerate((ids[slot], label, handoff, odd)):
                T.buffer_store(numbers, value, [i, column])
            for column, value in enumerate((low, jumped, changed)):
                T.buffer_store(flags, T.Cast("uint8", value), [i, column])
            for column, value in enumerate((start[i], start[i] + rule("step_s"), ready_since[slot])):
                T.buffer_store(times, value, [i, column])
            T.buffer_store(ready_since, T.float64(float("inf")), [slot])
    return builder.get()
