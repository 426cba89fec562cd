import time


def build(topic: str, pages: int = 3) -> dict[str, object]:
    """Build a report on a topic."""
    time.sleep(pages)
    return {"topic": topic, "pages": pages}
