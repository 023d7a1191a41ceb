"""pyvmm: a KVM virtual machine monitor."""
