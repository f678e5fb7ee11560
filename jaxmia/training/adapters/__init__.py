"""Transformers as pure functions over published weights, with small trainable changes looked up by module name."""
