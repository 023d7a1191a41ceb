"""virtio 1.2: transports, queues and devices. A device knows neither transport nor queue format."""
