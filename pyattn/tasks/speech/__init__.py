"""Speech to text with Whisper."""

from pyattn.tasks.speech.recognizer import SpeechRecognizer
from pyattn.tasks.speech.windows import Segment, Transcript

__all__ = ["Segment", "SpeechRecognizer", "Transcript"]
