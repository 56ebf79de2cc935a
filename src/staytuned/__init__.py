"""staytuned keeps a fine-tuned language model good while its data drifts."""
