"""A session key is taken out where it stands in an address, and nowhere else."""

from swerl.record.redact import HIDDEN, redact


def test_a_directory_called_t_is_no_session():
    key = "8Zx3vWq0pLkTn5YbRuE1aQ"
    assert redact(f"http://127.0.0.1:8002/t/{key}/v1", []) == f"http://127.0.0.1:8002/t/{HIDDEN}/v1"
    assert redact(f"POST /t/{key}/v1/messages", []) == f"POST /t/{HIDDEN}/v1/messages"
    assert redact("/data/t/a_directory_of_a_model/policy", []) == "/data/t/a_directory_of_a_model/policy"
