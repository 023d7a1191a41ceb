"""/dev/kvm and nothing else."""
