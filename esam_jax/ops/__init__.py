"""Pure array functions: no parameters, no Flax, no input or output."""
