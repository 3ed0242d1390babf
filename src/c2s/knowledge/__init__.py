"""What is known of genes beyond the data: gene sets."""
