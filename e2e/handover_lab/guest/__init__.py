"""The VM: its kernel, its QEMU processes and their live migration."""
