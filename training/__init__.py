"""Training Granulon: corpora, data, stages and trainer."""
