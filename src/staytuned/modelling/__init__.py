"""What tasks are made of: encoded examples, heads, embeddings, intervals."""
