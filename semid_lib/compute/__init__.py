"""What makes it fast, and the same everywhere: devices, threads, memory, products, processes."""
