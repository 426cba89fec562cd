from operations import rc

from raincheck.testing import RaincheckClient

pytest_plugins = "raincheck.testing"


def test_a_document_is_summarised_in_the_background(raincheck_client: RaincheckClient) -> None:
    office = raincheck_client(rc)
    result = office.call_tool("summarise", {"pages": ["a slow tool", "a ticket"]})
    assert result.value == {"pages": 2, "words": 5}
    assert office.status(result.handle).status == "completed"


def test_a_page_is_published_once_a_person_agrees(raincheck_client: RaincheckClient) -> None:
    office = raincheck_client(rc)
    result = office.call_tool("publish", {"title": "Rain"}, on_input=lambda question: {"action": "decline"})
    assert result.value == "kept back"
