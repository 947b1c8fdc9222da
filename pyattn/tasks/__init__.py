"""Applications of models: vectors of sentences, scores of pairs, text from speech and texts, search by meaning."""
