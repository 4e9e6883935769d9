"""What programs cost on this machine, beside others and beside the hardware's limit."""
