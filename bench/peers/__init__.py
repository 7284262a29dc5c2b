"""What a user would pick instead: one module each, all with the same verbs."""
