"""Names of the models, apart from their classes: the command line lists them without loading torch."""

COSYVOICE_TINY, COSYVOICE_NANO = "cosyvoice-tiny", "cosyvoice-nano"
WHISPER_TINY_CLS, MFCC_BILSTM = "whisper-tiny-cls", "mfcc-bilstm"
MODEL_NAMES = (COSYVOICE_TINY, COSYVOICE_NANO, WHISPER_TINY_CLS, MFCC_BILSTM)
