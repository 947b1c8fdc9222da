"""Sound, under its public name: WAV files, sampling rates, and Whisper's log-mel spectrogram."""

from pyattn.tasks.audio import RATE, is_sound, log_mel, mel_filters, read_sound, read_wave, resample

__all__ = ["RATE", "is_sound", "log_mel", "mel_filters", "read_sound", "read_wave", "resample"]
