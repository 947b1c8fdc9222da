"""Speech to text with Whisper."""

from pyattn.tasks.speech.recognizer import Segment, SpeechRecognizer, Transcript

__all__ = ["Segment", "SpeechRecognizer", "Transcript"]
