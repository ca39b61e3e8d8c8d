"""The frozen values that say what a model is and how it is trained."""
