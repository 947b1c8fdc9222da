"""Applications of models: vectors of sentences, text from speech and from texts, and a search by meaning over files."""
