"""How fast attention is here, and what it needs, beside its peers: the work of `attentune bench attention`."""
