"""Post-processing of a batch of answers as a compiled function: the decision rules of edgeemo_runtime/decision.py.

    decide(slots, answers, states, speech, rules, smoothed, window, seen, memory, ids, taken, written, ready_since, start,
           numbers, flags, shares, times)

It does on the same arrays what the runtime's Decisions does in numpy, and tests hold the two to the same bits. The order of
columns is edgeemo_runtime/abi.py's, and goes into the artifact's manifest.
"""

from __future__ import annotations

from typing import Any

from edgeemo_runtime.abi import FLAGS, NUMBERS, RULES, SPEECH, TIMES
from edgeemo_runtime.decision import LISTENING, MEMORY, MIN_DOUBT, SPEECH_UNIT, STREAK
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from edgeemo.compile.stream_functions.builder import FunctionBuilder, rounded

Expr = Any
DECIDE = "decide"
MAX_FLOAT = 3.4e38
SAID = ("label", "handoff", *FLAGS)
PARAMETERS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "slots": ("int32", ("batch",)),
    "answers": ("float32", ("batch", "labels")),
    "states": ("float32", ("slots", "words")),
    "speech": ("float64", (len(SPEECH),)),
    "rules": ("float64", (len(RULES),)),
    "smoothed": ("float32", ("slots", "labels")),
    "window": ("int64", ("slots", "window")),
    "seen": ("int64", ("slots", "labels_and_none")),
    "memory": ("int64", ("slots", len(MEMORY))),
    "ids": ("int64", ("slots",)),
    "taken": ("int64", ("slots",)),
    "written": ("int64", ("slots",)),
    "ready_since": ("float64", ("slots",)),
    "start": ("float64", ("batch",)),
    "numbers": ("int64", ("batch", len(NUMBERS))),
    "flags": ("uint8", ("batch", len(FLAGS))),
    "shares": ("float32", ("batch", 3, "labels")),
    "times": ("float64", ("batch", len(TIMES))),
}


def decide() -> tirx.PrimFunc:
    """The rules of Decisions, and what the answer of a step is made of."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(DECIDE)
        b = FunctionBuilder()
        arrays = {name: b.buffer(name, dtype, *shape) for name, (dtype, shape) in PARAMETERS.items()}
        T.func_attr({"tirx.noalias": True})
        with T.serial(0, b.sizes["batch"]) as i:
            _Call(b, arrays, i).step()
    return builder.get()


class _Call:
    """One call of the batch: emits its step, each rule as the method of that name in Decisions."""

    def __init__(self, b: FunctionBuilder, arrays: dict[str, Expr], row: Expr) -> None:
        self.b, self.a, self.i = b, arrays, row
        self.labels = b.sizes["labels"]
        self.slot = T.Bind(arrays["slots"][row])
        self.said = {name: b.local("int64", T.int64(LISTENING if name == "label" else 0)) for name in SAID}

    def rule(self, name: str) -> Expr:
        return self.a["rules"][RULES.index(name)]

    def on(self, name: str) -> Expr:
        return self.rule(name) > T.float64(0)

    def kept(self, name: str) -> Expr:
        return self.a["memory"][self.slot, MEMORY.index(name)]

    def keep(self, name: str, value: Expr) -> None:
        T.buffer_store(self.a["memory"], T.Cast("int64", value), [self.slot, MEMORY.index(name)])

    def say(self, name: str, value: Expr) -> None:
        T.buffer_store(self.said[name], T.Cast("int64", value), [0])

    def largest(self, which: int) -> tuple[Expr, Expr]:
        """First place of the largest of the call's ``shares``, and its value."""
        shares, i = self.a["shares"], self.i
        place, most = self.b.local("int64", T.int64(0)), self.b.local("float32", shares[i, which, 0])
        with T.serial(1, self.labels) as label, T.If(shares[i, which, label] > most[0]), T.Then():
            T.buffer_store(place, label, [0])
            T.buffer_store(most, shares[i, which, label], [0])
        return place, most

    def step(self) -> None:
        # Answers that are no probabilities become uniform. Of what is no number TVM holds no comparison to be as false as its
        # opposite, hence the one that is true of what is sound.
        total = self.b.local("float32", T.float32(0))
        with T.serial(0, self.labels) as label:
            T.buffer_store(total, total[0] + self.a["answers"][self.i, label], [0])
        self.sound = T.Bind(tirx.abs(total[0]) <= T.float32(MAX_FLOAT))
        self.steps = T.Bind(self.kept("steps"))
        self.begun = T.Bind(self.steps > 0)
        place = T.Bind(T.Cast("int64", self.a["speech"][SPEECH.index("place")]))
        counted = T.Cast("float64", self.a["states"][self.slot, tirx.max(place, T.int64(0))])
        self.spoken = T.Bind(tirx.Select(place >= 0, counted, T.Cast("float64", self.steps + 1)))
        least = self.a["speech"][SPEECH.index("least")]
        self.listening = T.Bind(tirx.And(tirx.Not(self.begun), self.spoken < least))
        self.smooth()
        self.b.when(tirx.Not(self.listening), self.answered)
        self.answer()

    def smooth(self) -> None:
        """Writes this step's probabilities, their average, and again the average for the rules to weigh."""
        smoothed, slot, i = self.a["smoothed"], self.slot, self.i
        alpha = T.Bind(T.Cast("float32", self.rule("alpha")))
        with T.serial(0, self.labels) as label:
            uniform = T.float32(1) / T.Cast("float32", self.labels)
            p = T.Bind(tirx.Select(self.sound, self.a["answers"][i, label], uniform))
            moved = smoothed[slot, label] + rounded(alpha * (p - smoothed[slot, label]))
            s = T.Bind(tirx.Select(tirx.And(self.begun, alpha < T.float32(1)), moved, p))
            T.buffer_store(smoothed, tirx.Select(self.listening, smoothed[slot, label], s), [slot, label])
            for which, value in enumerate((p, s, s)):
                T.buffer_store(self.a["shares"], value, [i, which, label])

    def answered(self) -> None:
        top, share = self.largest(1)
        self.b.when(self.on("consistency"), lambda: self.weigh(top, share))
        low = T.Bind(share[0] < T.Cast("float32", self.rule("min_confidence")))
        neutral = T.Cast("int64", self.rule("neutral"))
        answer = T.Bind(tirx.Select(tirx.And(self.on("confidence"), low), neutral, top[0]))
        due = self.due(low, answer)
        self.keep("steps", self.steps + 1)
        self.b.when(due, lambda: self.decide(low, answer))
        self.say("label", self.kept("label"))
        self.say("low", self.kept("low"))

    def due(self, low: Expr, answer: Expr) -> Expr:
        counted, none = T.Bind(T.Cast("int64", self.spoken * T.float64(SPEECH_UNIT))), T.int64(0)
        wanted = T.Bind(self.rule("decision_s") * T.float64(SPEECH_UNIT))
        grown = tirx.min(tirx.max(counted - self.kept("counted"), none), T.int64(SPEECH_UNIT))
        more = T.Bind(tirx.Select(self.begun, grown, none))
        unsure, decided = T.Bind(self.kept("unsure") + more), T.Bind(self.kept("decided") + more)

        def seconds(units: Expr) -> Expr:
            return T.Cast("float64", units) * self.rule("step_s")

        waiting = T.Bind(tirx.And(tirx.And(low, seconds(unsure) < wanted), self.on("confidence")))
        flipped = tirx.And(T.Cast("int64", low) != self.kept("low"), self.on("confidence"))
        other = tirx.Or(answer != self.kept("answer"), flipped)
        due = T.Bind(tirx.And(tirx.Not(waiting), tirx.Or(other, seconds(decided) >= wanted)))
        self.keep("counted", counted)
        self.keep("unsure", tirx.Select(waiting, unsure, none))
        self.keep("decided", tirx.Select(due, none, decided))
        return due

    def weigh(self, top: Expr, share: Expr) -> None:
        seen, window, slot, size = self.a["seen"], self.a["window"], self.slot, self.b.sizes["window"]
        in_window = T.Bind(tirx.min(self.steps, size))
        least = tirx.max(self.rule("disagreement") * T.Cast("float64", in_window), T.float64(MIN_DOUBT))
        doubted = T.Bind(T.Cast("float64", in_window - seen[slot, top[0]]) >= least)
        place = T.Bind(tirx.truncmod(self.steps, size))
        left = T.Bind(window[slot, place])
        T.buffer_store(seen, seen[slot, left] - 1, [slot, left])
        T.buffer_store(seen, seen[slot, top[0]] + 1, [slot, top[0]])
        T.buffer_store(window, top[0], [slot, place])
        self.b.when(doubted, lambda: self.halve(top, share))

    def halve(self, top: Expr, share: Expr) -> None:
        shares, i = self.a["shares"], self.i
        T.buffer_store(shares, shares[i, 2, top[0]] * T.float32(0.5), [i, 2, top[0]])
        whole = self.b.local("float32", T.float32(0))
        with T.serial(0, self.labels) as label:
            T.buffer_store(whole, whole[0] + shares[i, 2, label], [0])
        with T.serial(0, self.labels) as label:
            T.buffer_store(shares, shares[i, 2, label] / whole[0], [i, 2, label])
        now, most = self.largest(2)
        T.buffer_store(top, now[0], [0])
        T.buffer_store(share, most[0], [0])

    def decide(self, low: Expr, answer: Expr) -> None:
        before, stood = T.Bind(self.kept("answer")), T.Bind(self.kept("label"))
        decided = T.Bind(before >= 0)
        in_row = T.Bind(self.kept("in_row") * T.Cast("int64", answer == before) + 1)
        settled = tirx.Or(T.Cast("float64", in_row) >= self.rule("settle_decisions"), tirx.Not(decided))
        label = T.Bind(tirx.Select(tirx.Or(tirx.Not(self.on("settle")), settled), answer, stood))
        other = T.Bind(label != stood)
        changed = T.Bind(tirx.And(decided, other))
        soon = T.Cast("float64", self.steps - self.kept("since")) * self.rule("step_s") < self.rule("jump_s")
        jumped = T.Bind(tirx.And(changed, soon))
        both_sure = tirx.And(decided, tirx.And(tirx.Not(low), self.kept("low") == 0))
        restless = tirx.And(answer != before, both_sure)
        bits = T.Bind(tirx.Select(self.on("handoff"), T.Cast("int64", low) + 2 * T.Cast("int64", restless), T.int64(0)))
        # STREAK times the bad decisions in a row, and why.
        stays = tirx.Select(both_sure, T.int64(0), self.kept("streak"))
        code = T.Bind(tirx.Select(bits > 0, tirx.bitwise_or(self.kept("streak") + STREAK, bits), stays))
        reached = T.Cast("float64", code) >= self.rule("handoff_decisions") * T.float64(STREAK)
        handed = T.Bind(tirx.And(tirx.And(reached, bits > 0), self.kept("handed_off") == 0))
        for name, value in {
            "in_row": in_row, "streak": code, "answer": answer, "label": label, "low": low,
            "since": tirx.Select(other, self.steps, self.kept("since")),
            "handed_off": tirx.Select(handed, T.int64(1), self.kept("handed_off")),
        }.items():  # fmt: skip
            self.keep(name, value)
        self.say("handoff", tirx.Select(handed, tirx.truncmod(code, STREAK), T.int64(0)))
        self.say("jumped", jumped)
        self.say("changed", changed)
        self.say("decision", T.int64(1))

    def answer(self) -> None:
        """Writes numbers, flags and times."""
        a, i, slot = self.a, self.i, self.slot
        waiting = a["written"][slot] - a["taken"][slot] >= T.Cast("int64", self.rule("step"))
        odd = T.Cast("int64", waiting) + 2 * (1 - T.Cast("int64", self.sound))
        for column, value in enumerate((a["ids"][slot], self.said["label"][0], self.said["handoff"][0], odd)):
            T.buffer_store(a["numbers"], value, [i, column])
        for column, name in enumerate(FLAGS):
            T.buffer_store(a["flags"], T.Cast("uint8", self.said[name][0]), [i, column])
        since = a["ready_since"][slot]
        for column, value in enumerate((a["start"][i], a["start"][i] + self.rule("step_s"), since)):
            T.buffer_store(a["times"], value, [i, column])
        T.buffer_store(a["ready_since"], T.float64(float("inf")), [slot])
