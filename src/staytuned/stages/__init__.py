"""The pure middle: one file a stage, files in, files out."""
