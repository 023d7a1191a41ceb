"""PCI: a root bus, functions with their configuration space and BARs, and MSI-X."""
