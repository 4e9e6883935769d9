"""What this machine is: accelerators, compiled programs, memory, versions."""
