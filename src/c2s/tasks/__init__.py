"""What is asked: wording, answer, parsing, metric."""
