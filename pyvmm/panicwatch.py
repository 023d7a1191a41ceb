class PanicWatch:
    message = ""

    def feed(self, data: bytes) -> bool:
        return False
