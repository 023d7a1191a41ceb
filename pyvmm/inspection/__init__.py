"""What a guest's memory and registers tell; nothing here changes them."""
