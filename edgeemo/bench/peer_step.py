"""One batched step of our own model in another runtime: ONNX Runtime or LiteRT, one thread, states fed back.

    python peer_step.py {onnxruntime|litert} MODEL STREAMS STEPS

Imported for timing on this machine; run as a file on the (emulated) board, where nothing of edgeemo is. The markers are those of
board_step.py.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import numpy as np

MARK = 0x7A72
KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
WARM_UP = 3


def onnxruntime_step(model: str, streams: int) -> Callable[[], None]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {i.name: np.zeros([streams, *i.shape[1:]], KINDS[i.type]) for i in session.get_inputs()}
    for name, value in feed.items():
        if f"{name}_next" not in {o.name for o in session.get_outputs()} and value.dtype.kind == "f":  # no state
            feed[name] = _noise(value.shape).astype(value.dtype)
    outputs = [o.name for o in session.get_outputs()]

    def step() -> None:
        for name, value in zip(outputs, session.run(outputs, feed), strict=True):
            if name.endswith("_next"):
                feed[name.removesuffix("_next")] = value

    return step


def litert_step(model: str, streams: int) -> Callable[[], None]:
    """``streams`` must be what the model was converted for. Its tensors are audio and states, then result and states.

    They are read by place, in one order: where the quantizer puts a Quantize before an output, its signature still names the
    tensor ahead of that, which LiteRT may not keep (ai-edge-quantizer 0.10).
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    audio, *states = interpreter.get_input_details()
    results = [d["index"] for d in interpreter.get_output_details()]
    if audio["shape"][0] != streams:
        raise ValueError(f"{model} is for {audio['shape'][0]} streams, not {streams}")
    noise = _noise(audio["shape"])
    hop = noise if audio["dtype"] == np.float32 else (noise * 127).astype(np.int8)
    for state in states:
        interpreter.set_tensor(state["index"], np.zeros(state["shape"], state["dtype"]))

    def step() -> None:
        interpreter.set_tensor(audio["index"], hop)
        interpreter.invoke()
        _, *following = (interpreter.get_tensor(index) for index in results)
        for state, value in zip(states, following, strict=True):
            interpreter.set_tensor(state["index"], value)

    return step


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


RUNTIMES = {"onnxruntime": onnxruntime_step, "litert": litert_step}


def main() -> None:
    runtime, model, streams, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    step = RUNTIMES[runtime](model, streams)
    for _ in range(WARM_UP):
        step()
    mark = ctypes.CDLL(None).syscall
    mark(MARK, 1, 0)
    for _ in range(steps):
        step()
    mark(MARK, 2, 0)


if __name__ == "__main__":
    main()
