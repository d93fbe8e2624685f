"""Making data to train on: labels from a chat model, samples of large data sets, the corpus of questions."""
