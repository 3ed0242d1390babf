"""Training, thin over the Hugging Face Trainer."""
