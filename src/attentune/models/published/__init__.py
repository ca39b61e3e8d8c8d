"""Models as others publish them: from the configuration and the weights of a checkpoint in the Hugging Face layout.

One file a family. `spec(config)` reads the content of its `config.json` into a `ModelSpec`, and `weights(state, spec)`
gives its tensors the names of ours; both are strict: what they cannot honour is an error that names it. A family of
encoder and decoder has `model_spec` and `weights` for the whole, and both functions for each half: `encoder_spec`,
`decoder_spec`, `encoder_weights`, `decoder_weights`.
Dropout is a choice of training, not of the published function: it is left at 0 (`spec.replace(dropout=0.1)`).
"""
