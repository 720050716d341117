"""Doors to the files of others: weights of authors, diffusers folders, the Hugging Face Hub, and the zoo."""
