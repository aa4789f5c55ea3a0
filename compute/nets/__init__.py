"""The networks of the bundled models that no library has a class for. They know tensors, and their own folders."""
