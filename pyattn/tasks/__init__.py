"""What is done with models: sentences to vectors, speech and prompts to text, and a search by meaning over files."""
